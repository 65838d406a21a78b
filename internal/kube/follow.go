package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"metrics-server-prom/internal/setting"
)

// kubeconfigEvery is how often the kubeconfig is looked at for changes.
const kubeconfigEvery = 5 * time.Second

// Settings say which cluster it is.
type Settings struct {
	Kubeconfig, Context string // as for Find
	KubeconfigData      string // a kubeconfig itself, in place of Kubeconfig; as Source.Data
	Native              string // as Source.Native
}

// Rows is their part of the table of settings.
func (s *Settings) Rows() []setting.Row {
	return []setting.Row{
		{Flag: "kubeconfig", Env: "KUBECONFIG", Set: setting.FileName(&s.Kubeconfig),
			Help: "kubeconfig; if not set " + MountedKubeconfig +
				" if it exists, else in-cluster if in a cluster, else ~/.kube/config"},
		{Flag: "kubeconfig-data", Env: "KUBECONFIG_DATA", Excludes: "kubeconfig", Set: setData(&s.KubeconfigData),
			Secret: true, Help: "kubeconfig itself, as YAML or base64 of it, where secrets are handed out as variables"},
		{Flag: "native-credentials", Env: "NATIVE_CREDENTIALS", Default: NativeMissing,
			Set:  setting.OneOf(&s.Native, NativeMissing, NativeAlways, NativeNever),
			Help: "when to answer in place of an exec plugin of EKS, GKE or AKS: where it is missing, always or never"},
		{Flag: "context", Env: "KUBE_CONTEXT", Set: setting.Name(&s.Context),
			Help: "context of the kubeconfig; if not set its current one"},
	}
}

// Cluster is how the clients of a cluster are made and used.
type Cluster struct {
	Settings
	UserAgent string // of all requests; empty for client-go's own
	// Report is told of every request, with the resource as kubectl names it ("pods", "pods.metrics.k8s.io"), the verb
	// (list, watch, get) and the HTTP status code, or "error" where there was none.
	Report func(resource, verb, code string)
	// Failed is told that no cluster is configured, or not correctly, at every look.
	Failed func(*Failure)
	// Run uses clients until ctx ends. client makes one of a group version; all share their connections.
	Run func(ctx context.Context, client func(schema.GroupVersion) rest.Interface)
}

// Follow runs with the cluster that is configured, as soon as one is, until ctx ends. When the kubeconfig changes it
// may name another cluster: then Run is ended, and begun with new clients.
func (c *Cluster) Follow(ctx context.Context) {
	tick := time.NewTicker(kubeconfigEvery)
	defer tick.Stop()
	wait := func() {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		source := c.source()
		seen, unread := source.Fingerprint()
		client, transport, err := c.connect(source)
		if err != nil {
			c.Failed(Explain("connect", err))
			wait()
			continue
		}
		run, stop := context.WithCancel(ctx)
		var running sync.WaitGroup
		running.Go(func() { c.Run(run, client) })
		for changed := false; !changed && ctx.Err() == nil; {
			wait()
			now, err := c.source().Fingerprint()
			changed = err == nil && (unread != nil || now != seen)
		}
		if ctx.Err() == nil {
			slog.Info("the kubeconfig has changed: connecting anew")
		}
		stop()
		running.Wait()
		transport.close()
	}
}

// source is where the cluster is found now.
func (c *Cluster) source() Source {
	s := Find(c.Kubeconfig, c.Context)
	if c.KubeconfigData != "" {
		s = Source{Data: c.KubeconfigData, Context: c.Context}
	}
	s.Native = c.Native
	return s
}

func (c *Cluster) connect(source Source) (of func(schema.GroupVersion) rest.Interface, t *transport, err error) {
	config, err := source.Config()
	if err != nil {
		return nil, nil, err
	}
	config.UserAgent = c.UserAgent
	if t, err = newTransport(config, c.Report); err != nil {
		return nil, nil, err
	}
	if _, err = client(config, Core, t); err != nil {
		t.close()
		return nil, nil, misconfigured("cannot use the server's address: %s; correct it in the kubeconfig", err)
	}
	return func(group schema.GroupVersion) rest.Interface {
		made, _ := client(config, group, t) // what can fail is the same for all groups
		return made
	}, t, nil
}
