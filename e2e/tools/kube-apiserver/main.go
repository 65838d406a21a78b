// Command kube-apiserver is Kubernetes' own API server, built from its published module, so that the e2e tests need
// nothing but Go. The module k8s.io/kubernetes replaces its staging modules by local folders; go.mod here replaces
// them by their published versions instead.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
