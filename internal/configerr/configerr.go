// Package configerr makes the errors that say which field of a Config, or which parameter of a
// connection string, cannot work.
package configerr

import (
	"errors"
	"fmt"
)

// Err is what every error of this package wraps. Package dsql exports it as ErrConfig.
var Err = errors.New("dsql: invalid configuration")

// New names the field or parameter at fault, says what is wrong with it, and what to set instead.
func New(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", Err, field, fmt.Sprintf(format, args...))
}
