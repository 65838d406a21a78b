package kube

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// kubeconfigEvery is how often the kubeconfig is looked at for changes.
const kubeconfigEvery = 5 * time.Second

// Cluster is how the clients of a cluster are made and used.
type Cluster struct {
	Name      string // for the log; "" where there is only one
	UserAgent string // of all requests; empty for client-go's own
	// Report is told of every request, with the resource as kubectl names it ("pods", "pods.metrics.k8s.io"), the verb
	// (list, watch, get) and the HTTP status code, or "error" where there was none.
	Report func(resource, verb, code string)
	// Failed is told that the cluster is not configured, or not correctly, at every look.
	Failed func(*Failure)
	// Run uses clients until ctx ends. client makes one of a group version; all share their connections. When what the
	// kubeconfig says of the cluster changes, it is ended, and called again with new clients once it has returned.
	Run func(ctx context.Context, client func(schema.GroupVersion) rest.Interface)
	// Gone is told that the cluster is not configured any more, and Ended that its last Run has ended after that. Neither
	// is called where Follow ends.
	Gone, Ended func()
}

// Clusters are the clusters that are configured, as they come, change and go.
type Clusters struct {
	Settings
	Several bool // as Settings.Several was when the process began
	// Open is called when a cluster comes. Its name is "" where there is only one, which then never goes.
	Open func(name string) *Cluster
	// Looked is told after every look why there are no clusters, or not all of them can be looked at; nil for neither.
	// One that cannot be looked at stays as it is.
	Looked func(*Failure)

	from    Source   // see choose
	settled bool     // from stays, whatever comes or goes
	where   string   // the same for the log; "" for nowhere yet
	at      [32]byte // the fingerprint of the kubeconfig, with what was found there
	found   map[string]place
	failed  error
	members map[string]*member
	ending  sync.WaitGroup
	former  map[string]<-chan struct{} // by name: closed when the last one of that name has ended
}

// place is where a cluster was found. Of one that is unread nothing is known.
type place struct {
	source Source
	print  [32]byte // of what is said there of the cluster
	unread bool
}

// member is a cluster that is followed.
type member struct {
	place
	*Cluster
	stop   context.CancelFunc
	failed atomic.Bool // it could not be connected to, and is not any more
}

// Follow runs with each cluster that is configured, from when it is until it is no more or ctx ends. Where the
// kubeconfig says something else of a cluster than before, that one's Run is ended, and begun with new clients.
func (s *Clusters) Follow(ctx context.Context) {
	s.members, s.former = map[string]*member{}, map[string]<-chan struct{}{}
	defer s.ending.Wait()
	tick := time.NewTicker(kubeconfigEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		found, whole, failed := s.look()
		for name, m := range s.members {
			if _, there := found[name]; !there && whole {
				delete(s.members, name)
				m.Gone()
				m.stop()
				ended := s.former[name]
				s.ending.Go(func() { <-ended; m.Ended() })
			}
		}
		for name, at := range found {
			switch m := s.members[name]; {
			case m == nil:
				s.begin(ctx, name, &member{place: at, Cluster: s.Open(name)})
			case m.failed.Load(): // files that the kubeconfig names may have come
				m.stop()
				s.begin(ctx, name, &member{place: at, Cluster: m.Cluster})
			case !at.unread && (m.unread || m.print != at.print):
				slog.Info(OfCluster(m.Name, "the kubeconfig has changed: connecting anew"))
				m.stop()
				s.begin(ctx, name, &member{place: at, Cluster: m.Cluster})
			}
		}
		for name, ended := range s.former {
			if s.members[name] == nil {
				select {
				case <-ended:
					delete(s.former, name)
				default:
				}
			}
		}
		var f *Failure
		if failed != nil {
			f = Explain("connect", failed)
		}
		s.Looked(f)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// OfCluster is a line about a cluster, whose name it ends in; "" is the only cluster.
func OfCluster(cluster, line string) string {
	if cluster == "" {
		return line
	}
	return line + " (cluster " + cluster + ")"
}

// begin follows a cluster from now on, and from when that of its name has ended.
func (s *Clusters) begin(ctx context.Context, name string, m *member) {
	former, ended := s.former[name], make(chan struct{})
	s.members[name], s.former[name] = m, ended
	ctx, m.stop = context.WithCancel(ctx)
	s.ending.Go(func() {
		defer close(ended)
		if former != nil {
			<-former
		}
		m.follow(ctx)
	})
}

// follow runs with a cluster until ctx ends, unless it is not configured correctly.
func (m *member) follow(ctx context.Context) {
	client, transport, err := m.connect(m.source)
	if err != nil {
		m.Failed(Explain("connect", err))
		m.failed.Store(true)
		return
	}
	m.Run(ctx, client)
	<-ctx.Done()
	transport.close()
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
	if c.Name != "" {
		t.oneOfMany()
	}
	if t.exec != nil {
		t.exec.cluster = c.Name
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
