package load

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"metrics-server-prom/e2e/controlplane"
)

// dependencies are the modules that the exporter's go.mod may name itself, and what each is there for.
var dependencies = map[string]string{
	"github.com/KimMachineGun/automemlimit": "reads the container's memory limit from either version of cgroups, for " +
		"the garbage collector to stay below it",
	"github.com/VictoriaMetrics/metrics": "self metrics: counters, histograms and those of the process, in a tenth of " +
		"client_golang's size",
	"github.com/aws/aws-sdk-go-v2": "the signature of a token of EKS",
	"github.com/aws/aws-sdk-go-v2/config": "where AWS' programs look for credentials, in their order: environment, shared " +
		"files with profiles and roles, web identity, container endpoints, IMDSv2. With the three modules below it is " +
		"2.5 MB of the program; the signer alone would be 0.1 MB, and 1.2 MB without the shared files",
	"github.com/aws/aws-sdk-go-v2/credentials": "assuming the role that a kubeconfig names",
	"github.com/aws/aws-sdk-go-v2/service/sts": "STS and its endpoints in all regions and partitions",
	"github.com/aws/smithy-go":                 "the errors of these",
	"github.com/golang-jwt/jwt/v5": "the signed assertion of a certificate for Entra; linked without that too. azidentity in " +
		"place of plain OAuth 2.0 requests would be 0.7 MB and 6 modules",
	"github.com/google/uuid":        "its number; linked without that too",
	"github.com/klauspost/compress": "deflate that takes a third of the standard library's time",
	"github.com/munnerz/goautoneg":  "the stand-in API server's content negotiation, as the real one does it",
	"github.com/prometheus/common": "http_config, in which every receiver of remote write tells how to get in: 0.15 MB, as the " +
		"exporter-toolkit brings most of it along",
	"github.com/prometheus/exporter-toolkit": "TLS, client certificates and basic authentication by the configuration " +
		"file that all exporters have",
	"go.yaml.in/yaml/v2":  "the YAML of that http_config, whose types are made for it; linked without that too",
	"golang.org/x/crypto": "pkcs12, in which certificates for Entra come; linked without that too",
	"golang.org/x/net":    "httpguts, which tells whether a push header can be sent",
	"golang.org/x/oauth2": "google: application default credentials in all forms, 0.2 MB with the client of the metadata " +
		"server",
	"google.golang.org/protobuf": "protowire, the primitives of the wire format",
	"k8s.io/api":                 "the Pod, for the stand-in API server and the tests of what the exporter reads of it",
	"k8s.io/apimachinery":        "what all API objects have, label selectors, and errors",
	"k8s.io/client-go":           "kubeconfigs and all forms of credentials, REST, and the reflector that watches",
	"k8s.io/klog/v2":             "client-go's log, which is turned down",
	"k8s.io/metrics":             "the types of metrics.k8s.io, for the client's scheme, the stand-in and tests",
	"sigs.k8s.io/json":           "JSON whose field names are case-sensitive, as the API server's are",
}

// linked is how many modules are in the exporter: those above and what they bring along. Whoever changes it says why.
// The kubeconfigs of EKS and GKE have brought 15: AWS' 14, and cloud.google.com/go/compute/metadata.
const linked = 59

func TestDependenciesAreCountedAndJustified(t *testing.T) {
	t.Parallel()
	module, err := controlplane.ModuleDir()
	if err != nil {
		t.Fatal(err)
	}
	golang := func(args ...string) []byte {
		cmd := exec.Command("go", args...)
		cmd.Dir = filepath.Dir(module)
		output, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
		return output
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(golang("mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, require := range mod.Require {
		if named[require.Path] = !require.Indirect; named[require.Path] && dependencies[require.Path] == "" {
			t.Errorf("%s has no justification here", require.Path)
		}
	}
	for path := range dependencies {
		if !named[path] {
			t.Errorf("%s is not needed any more", path)
		}
	}
	all := strings.Fields(string(golang("list", "-deps", "-f",
		"{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".")))
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != linked {
		t.Errorf("%d modules in the exporter, want %d: %s", len(all), linked, strings.Join(all, " "))
	}
}
