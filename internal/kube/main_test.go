package kube

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"

	"metrics-server-prom/internal/credentials"
)

// TestMain answers in place of exec plugins, and keeps client-go quiet, as the program does.
func TestMain(m *testing.M) {
	credentials.Serve()
	flag.Set("test.parallel", "8")           // those that are parallel mostly wait
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or the race detector sleeps for a second at the end of each plugin
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	// They keep the moment of the last error of the whole process, which in a synctest bubble is of another clock.
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}
