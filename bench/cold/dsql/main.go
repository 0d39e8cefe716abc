// Cold/dsql is a first query through this library.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/dsqlgo/dsql"
)

func main() {
	ctx := context.Background()
	config, err := dsql.ParseConfig(os.Getenv("DSQL_URL"))
	if err != nil {
		log.Fatal(err)
	}
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	var one int
	if err := conn.QueryRow(ctx, "select 1").Scan(&one); err != nil {
		log.Fatal(err)
	}
	fmt.Println(one)
}
