// Size/dsql imports this library and ends.
package main

import (
	"fmt"

	"github.com/dsqlgo/dsql"
)

var connect = dsql.NewPool // keeps it in the binary

func main() { fmt.Println(connect != nil) }
