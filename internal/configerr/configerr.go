// Package configerr makes the errors for invalid Config fields and connection string parameters.
package configerr

import (
	"errors"
	"fmt"
)

// Err is wrapped by every error of this package. Package dsql exports it as ErrConfig.
var Err = errors.New("dsql: invalid configuration")

// New returns an error for a field or parameter. The format says what is wrong with it and what to
// set instead.
func New(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", Err, field, fmt.Sprintf(format, args...))
}
