// Command build builds the programs that the end-to-end tests run, as the tests themselves do, but without `go test`'s
// time limit:
//
//	go -C e2e run ./build
package main

import (
	"fmt"
	"os"

	"metrics-server-prom/e2e/controlplane"
)

func main() {
	if err := controlplane.BuildTools(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
