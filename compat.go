package dsql

import "github.com/dsqlgo/dsql/internal/configerr"

var configError = configerr.New
