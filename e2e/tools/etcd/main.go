// Command etcd is etcd's own server, built from its published module: "go install …@version" refuses a module that
// has replace directives; requiring it from another module works.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
