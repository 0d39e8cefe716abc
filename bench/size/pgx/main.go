// Size/pgx imports pgx's pool and ends.
package main

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

var connect = pgxpool.New // keeps it in the binary

func main() { fmt.Println(connect != nil) }
