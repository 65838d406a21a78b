package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/exporter"
)

const (
	podPath = "/api/v1/pods"
	// headerBound is how long an answer may take to begin, 30 s, and the time until that is reported.
	headerBound = 30*time.Second + notice + 5*time.Second
	// watchBoundTwice is the same for a watch: what the next attempt, 30 s later, finds mended is not reported.
	watchBoundTwice = headerBound + 35*time.Second
	// endlessBound is how soon something without an end is seen as that.
	endlessBound = 90 * time.Second
	// endlessMemory is how much of something without an end the exporter may hold before it sees that.
	endlessMemory = 512 << 20
)

// Endless are the answers that never end, on each path but that of the pods' usage, which is in Bodies.
var Endless = []Fault{
	{Name: "list of pods that never ends", Cause: listing(endlessList), Alone: true, Memory: endlessMemory,
		Lasts: endlessBound,
		Short: 10 * time.Second, While: Expect{Within: endlessBound, Says: "pods", Labels: 5 * time.Minute,
			Page: watchIs(0)}},
	{Name: "list of pods of which there is always another page", Cause: listing(endlessPages), Alone: true,
		Memory: endlessMemory, Lasts: endlessBound,
		Short: 10 * time.Second, While: Expect{Within: endlessBound, Says: "pods", Labels: 5 * time.Minute,
			Page: watchIs(0)}},
	{Name: "list of pods with one object of 500 MB", Cause: listing(hugePod), Alone: true, Lasts: 10 * time.Second,
		Short: 10 * time.Second, While: Expect{Within: headerBound, Says: "pods", Labels: 5 * time.Minute,
			Page: watchIs(0)}},
	{Name: "usage of a node, asked for alone, that never ends", Alone: true, Short: 20 * time.Second,
		While: Expect{Fresh: true, Page: keeps},
		Cause: path(one("nodes"), func(w http.ResponseWriter, _ *http.Request) {
			hugeIn(w, envelopeOf("metrics.k8s.io/v1beta1", "NodeMetrics", nil), nobody, 2<<30)
		})},
	{Name: "usage of the nodes that never ends", Alone: true, Hangs: true, Short: 5 * time.Second,
		While: Expect{Within: hangs, Says: "cannot list nodes.metrics.k8s.io", Down: "nodes", Page: keeps},
		Cause: path(exactly(nodeList), func(w http.ResponseWriter, _ *http.Request) {
			hugeIn(w, envelopeOf("metrics.k8s.io/v1beta1", "NodeMetricsList", nil), nobody, 2<<30)
		})},
}

// Silent are the requests whose answer's header never comes, on each path.
var Silent = []Fault{
	{Name: "watch of pods without an answer", Cause: unwatched(silent(watches)), Alone: true, Lasts: headerBound,
		Short: 10 * time.Second, While: Expect{Within: watchBoundTwice, Says: "pods", Labels: 5 * time.Minute,
			Page: watchIs(0)}},
	{Name: "watch of pods without an answer from the start", Cause: unwatched(silent(watches)), Alone: true,
		FromStart: true, Lasts: headerBound, Short: headerBound,
		While: Expect{Within: watchBoundTwice, Says: "pods", Down: "pods", MayRefuse: true, Flickers: true,
			Again: 1}},
	{Name: "list of pods without an answer", Cause: listing(silence), Alone: true, Lasts: headerBound,
		Short: 10 * time.Second, While: Expect{Within: headerBound, Says: "pods", Labels: 5 * time.Minute,
			Page: watchIs(0)}},
	{Name: "list of the pods' usage without an answer", Cause: silent(exactly(podList)), Hangs: true,
		Short: 10 * time.Second, While: Expect{Within: hangs, Says: "no complete answer in time", Down: "pods",
			Page: keeps}},
	{Name: "list of the nodes' usage without an answer", Cause: silent(exactly(nodeList)), Hangs: true,
		Short: 10 * time.Second, While: Expect{Within: hangs, Says: "no complete answer in time", Down: "nodes",
			Page: keeps}},
	{Name: "usage of a node, asked for alone, without an answer", Cause: silent(one("nodes")),
		Short: 20 * time.Second, While: Expect{Fresh: true, Page: keeps}},
	{Name: "exec plugin that hangs", Cause: pluginHangs, Plugin: true, Alone: true, Lasts: 15 * time.Second,
		Short: 10 * time.Second, While: Expect{Within: headerBound, Says: "plugin.sh", Down: "pods nodes", Page: keeps,
			Again: 1}},
}

// Two namespaces of the simulated cluster, of which one has the fault.
const sound, ill = "checkout-000", "search-000"

// Namespaced are the faults of one namespace of two. The other keeps up with the API.
var Namespaced = []Fault{
	{Name: "one namespace of two refused", Cause: refusedNamespace, Namespaces: []string{sound, ill},
		MaxAge: 20 * time.Second,
		Short:  30 * time.Second, While: Expect{Within: notice + 5*time.Second, Says: ofNamespace, Down: "pods/" + ill,
			Fresh:  true,
			Behind: ill, Expires: true, Again: 1}},
	{Name: "one namespace of two refused from the start", Cause: refusedNamespace, Namespaces: []string{sound, ill},
		FromStart: true,
		Short:     15 * time.Second, While: Expect{Within: notice + 10*time.Second, Says: ofNamespace, Down: "pods/" + ill,
			Fresh:  true,
			Behind: ill, Expires: true, Again: 1, Page: hasNamespace(sound)}},
	{Name: "one namespace of two slow",
		Cause:      silent(exactly(strings.Replace(podList, "pods", "namespaces/"+ill+"/pods", 1))),
		Namespaces: []string{sound, ill}, Hangs: true,
		Short: 15 * time.Second, While: Expect{Within: hangs, Says: ofNamespace, Down: "pods/" + ill, Fresh: true,
			Behind: ill}},
	{Name: "one namespace of two whose watch has no answer", Cause: unwatched(silent(func(r *http.Request) bool {
		return strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/"+ill+"/")
	})), Namespaces: []string{sound, ill}, Alone: true, Lasts: headerBound,
		Short: 10 * time.Second, While: Expect{Within: watchBoundTwice, Says: ofNamespace, Fresh: true, Behind: ill,
			Labels: 5 * time.Minute}},
}

const ofNamespace = "pods of namespace " + ill

// exactly matches the requests for a path.
func exactly(path string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.URL.Path == path }
}

// one matches the requests for the usage of one object.
func one(resource string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return strings.HasPrefix(r.URL.Path, "/apis/metrics.k8s.io/v1beta1/"+resource+"/")
	}
}

// watches matches the watches of pods, watch-lists among them.
func watches(r *http.Request) bool { return r.URL.Path == podPath && r.URL.Query().Get("watch") != "" }

// path lets f answer some requests.
func path(which func(*http.Request) bool, f func(http.ResponseWriter, *http.Request)) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			if !which(r) {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
			f(w, r)
			return true
		})
	}
}

// silence sends nothing, not even a header.
func silence(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func silent(which func(*http.Request) bool) cause { return path(which, silence) }

// unwatched ends the running watches after another fault was brought about.
func unwatched(c cause) cause {
	return func(ctx context.Context, h *Harness) (func(context.Context) error, error) {
		mend, err := c(ctx, h)
		h.API.CloseWatches()
		return mend, err
	}
}

// listing lets the server forget its history and have no watch-lists, so that the pods must be listed page by page, and
// answers these lists by f.
func listing(f func(http.ResponseWriter, *http.Request)) cause {
	return func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		mend, err := intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path != podPath:
				return false
			case r.URL.Query().Has("sendInitialEvents"):
				standin.WriteError(w, r, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"},
					"sendInitialEvents", nil))
			case watches(r):
				standin.WriteError(w, r, apierrors.NewResourceExpired("too old resource version"))
			default:
				w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
				f(w, r)
			}
			return true
		})
		h.API.Compact()
		h.API.CloseWatches()
		return mend, err
	}
}

// items of a list of pods: each a pod named p in namespace n.
var somePods = strings.Repeat("\x12\x0a\x0a\x08\x0a\x01p\x1a\x01n\x3a\x00", 1000)

// endlessList sends pods as long as somebody takes them.
func endlessList(w http.ResponseWriter, _ *http.Request) {
	whole := envelopeOf("v1", "PodList", nil)
	whole = whole[:len(whole)-len("\x12\x00\x1a\x00\x22\x00")]
	write(w, appendLength(append(whole, 0x12), 1<<40))
	for {
		if _, err := w.Write([]byte(somePods)); err != nil {
			return
		}
	}
}

// endlessPages sends pages that have 1,000 pods each and another page behind them.
func endlessPages(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.URL.Query().Get("continue")) // the first is 0
	token := strconv.Itoa(page + 1)
	meta := "\x12\x01" + "1" + "\x1a" + string(appendLength(nil, len(token))) + token // resourceVersion and continue
	write(w, envelopeOf("v1", "PodList", []byte("\x0a"+string(appendLength(nil, len(meta)))+meta+somePods)))
}

// hugePod sends a list with one pod.
func hugePod(w http.ResponseWriter, _ *http.Request) {
	hugeIn(w, envelopeOf("v1", "PodList", nil), items, 500<<20)
}

// envelopeOf is an object as Kubernetes sends it in protobuf.
func envelopeOf(apiVersion, kind string, object []byte) []byte {
	b, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: object}).Marshal()
	if err != nil {
		panic(err) // bytes can always be encoded
	}
	return append([]byte("k8s\x00"), b...)
}

// refusedNamespace takes all rights in one namespace away, with the watch that is running there.
func refusedNamespace(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	return unwatched(func(_ context.Context, h *Harness) (func(context.Context) error, error) {
		return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/namespaces/"+ill+"/") {
				return false
			}
			standin.WriteError(w, r, standin.Forbidden(r))
			return true
		})
	})(ctx, h)
}

// hasNamespace looks for samples of a namespace.
func hasNamespace(namespace string) func(*Harness, *exporter.Page) error {
	return func(_ *Harness, page *exporter.Page) error {
		if !strings.Contains(page.Text, `namespace="`+namespace+`"} `) &&
			!strings.Contains(page.Text, `namespace="`+namespace+`",`) {
			return fmt.Errorf("the page has no samples of namespace %s", namespace)
		}
		return nil
	}
}

// withPlugin is a kubeconfig that gets its token from an exec plugin.
func (h *Harness) withPlugin(kubeconfig []byte) ([]byte, error) {
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, err
	}
	for _, user := range config.AuthInfos {
		credential := fmt.Sprintf(`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",`+
			`"status":{"token":%q}}`, user.Token)
		if err := h.writePlugin("echo '" + credential + "'"); err != nil {
			return nil, err
		}
		user.Token = ""
		user.Exec = &clientcmdapi.ExecConfig{Command: h.plugin(), APIVersion: "client.authentication.k8s.io/v1",
			InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
	}
	return clientcmd.Write(*config)
}

func (h *Harness) plugin() string { return filepath.Join(h.dir, "plugin.sh") }

func (h *Harness) writePlugin(does string) error {
	path := h.plugin() + ".new"
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+does+"\n"), 0o700); err != nil {
		return err
	}
	return os.Rename(path, h.plugin())
}

// pluginHangs has the plugin asked for a new token and say nothing. What mends it is a kubeconfig without a plugin.
func pluginHangs(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	if err := h.writePlugin("exec sleep 300"); err != nil {
		return nil, err
	}
	mend, err := unknownToken(ctx, h)
	return func(ctx context.Context) error {
		return errors.Join(mend(ctx), replace(h.config, h.plain))
	}, err
}

// restored deletes ten pods, gives the cluster an etcd restored from a backup that did not have them either, and
// creates them again: with resourceVersions far below those at which they were deleted.
func restored(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	pods := h.API.Pods()[:10]
	version := h.API.ResourceVersion() - uint64(len(h.API.Pods())) - 100
	err := h.Change(ctx, func() (err error) {
		for _, p := range pods {
			err = errors.Join(err, h.API.DeletePod(p.Namespace, p.Name))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := within(ctx, behind, "the pods are seen to be gone", func(ctx context.Context) error {
		return h.awaitWatched(ctx)
	}); err != nil {
		return nil, err
	}
	return func(context.Context) error { return nil }, h.Change(ctx, func() (err error) {
		h.API.Restore(version)
		for i, p := range pods {
			p.IP, p.Node = "", h.API.Nodes()[i%3]
			err = errors.Join(err, h.API.AddPod(p))
		}
		return err
	})
}

// awaitWatched returns when the exporter watches as many pods as there are.
func (h *Harness) awaitWatched(ctx context.Context) error {
	return await(ctx, func(ctx context.Context) error {
		page, err := h.pageOf(ctx)
		if err != nil {
			return err
		}
		if watched, _ := page.Sum("metrics_server_prom_watched_objects", podsLabel); int(watched) != len(h.API.Pods()) {
			return fmt.Errorf("%v pods are watched, of %d", watched, len(h.API.Pods()))
		}
		return nil
	})
}

// oneAhead sets the clock of one pod an hour ahead.
func oneAhead(ctx context.Context, h *Harness) (func(context.Context) error, error) {
	// One that no change of the cluster touches: what has no workload is not replaced.
	if err := h.API.AddPod(standin.Pod{Namespace: "odd", Name: "ahead", Containers: []string{"app"}}); err != nil {
		return nil, err
	}
	mend, err := lies(func(l *standin.Behavior) {
		l.SkewOf = func(_, name string) time.Duration {
			if name == "ahead" {
				return time.Hour
			}
			return 0
		}
	})(ctx, h)
	return func(ctx context.Context) error {
		return errors.Join(h.API.DeletePod("odd", "ahead"), mend(ctx), h.Look(ctx))
	}, errors.Join(err, h.Look(ctx))
}

// notAhead checks that no sample's time is in the future.
func notAhead(h *Harness, page *exporter.Page) error {
	for _, name := range []string{"newest", "oldest"} {
		for series, value := range page.Family("metrics_server_prom_" + name + "_sample_timestamp_seconds") {
			if ahead := time.Until(time.Unix(int64(value), 0)); ahead > clockSlack {
				return fmt.Errorf("%s is %s in the future", series, ahead.Round(time.Second))
			}
		}
	}
	return keeps(h, page)
}

// twice sends a pod's usage for a second time in the same list.
func twice(_ context.Context, h *Harness) (func(context.Context) error, error) {
	return intercepts(h, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != podList {
			return false
		}
		h.looking.Lock()
		pods := h.simulated().Pods
		h.looking.Unlock()
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		write(w, h.list(slices.Clone(pods[:1])...))
		return true
	})
}
