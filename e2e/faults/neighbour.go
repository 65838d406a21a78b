package faults

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/controlplane"
	"metrics-server-prom/e2e/exporter"
)

// Neighbour is a cluster that exporters read beside one that is broken. What its API says is recorded once for all of
// them.
type Neighbour struct {
	name    string
	config  *clientcmdapi.Config // whose current context it is
	history *history
	slow    time.Duration // as Harness.slow
	close   func()
}

// SimulatedNeighbour starts a simulated one whose pods come, go, move and are relabelled.
func SimulatedNeighbour(ctx context.Context, name string) (*Neighbour, error) {
	h := &Harness{}
	api, err := standin.New(standin.Options{Pods: 30, Resolution: interval, Seed: 11, Now: h.clock.now,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	h.API = api
	text, err := api.Kubeconfig()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.Load(text)
	if err != nil {
		return nil, err
	}
	h.look = func(context.Context) (*check.Reading, error) { return simulated(api), nil }
	n, err := newNeighbour(ctx, name, config, h, 50*time.Millisecond)
	if err == nil {
		churned, stop := context.WithCancel(context.Background())
		var churning sync.WaitGroup
		churning.Go(func() { h.Churn(churned, 1) })
		end := n.close
		n.close = func() { stop(); churning.Wait(); end(); api.Close() }
	}
	return n, err
}

// RealNeighbour is a real control plane that has been Populated.
func RealNeighbour(ctx context.Context, name string, plane *controlplane.ControlPlane) (*Neighbour, error) {
	token, err := plane.Token(ctx, accountNamespace, account)
	if err != nil {
		return nil, err
	}
	path, err := plane.Kubeconfig(controlplane.Credentials{Token: token})
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	look, err := lookAt(plane)
	if err != nil {
		return nil, err
	}
	h := &Harness{slow: resolution, look: func(ctx context.Context) (*check.Reading, error) { return look(ctx), nil }}
	return newNeighbour(ctx, name, config, h, 300*time.Millisecond)
}

func newNeighbour(ctx context.Context, name string, config *clientcmdapi.Config, h *Harness,
	pause time.Duration) (*Neighbour, error) {
	h.history = newHistory(6 * time.Minute)
	if err := h.Look(ctx); err != nil {
		return nil, err
	}
	looking, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for tick := time.NewTicker(pause); ; {
			select {
			case <-tick.C:
				_ = h.Look(looking) // as for a harness
			case <-looking.Done():
				tick.Stop()
				return
			}
		}
	})
	return &Neighbour{name, config, h.history, h.slow, func() { stop(); running.Wait() }}, nil
}

// pageOf is what a page has of the harness's cluster.
func (h *Harness) pageOf(ctx context.Context) (*exporter.Page, error) {
	page, err := h.Exporter.Scrape(ctx)
	if err == nil && h.cluster != "" {
		page = page.Of(h.cluster)
	}
	return page, err
}

// Close ends the looking.
func (n *Neighbour) Close() { n.close() }

// withNeighbours is a kubeconfig whose only context is called name now, and that has the neighbours' beside it.
func withNeighbours(text []byte, name string, neighbours []*Neighbour) ([]byte, error) {
	own, err := clientcmd.Load(text)
	if err != nil {
		return nil, err
	}
	all := clientcmdapi.NewConfig()
	add := func(name string, from *clientcmdapi.Config) {
		context := from.Contexts[from.CurrentContext]
		all.Clusters[name], all.AuthInfos[name] = from.Clusters[context.Cluster], from.AuthInfos[context.AuthInfo]
		all.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	}
	add(name, own)
	for _, n := range neighbours {
		add(n.name, n.config)
	}
	return clientcmd.Write(*all)
}

// checkNeighbour returns a checker of a neighbour, once all of it is on a page.
func (h *Harness) checkNeighbour(ctx context.Context, n *Neighbour, maxAge time.Duration) (*checker, error) {
	c := &checker{exporter: h.Exporter, history: n.history, maxAge: maxAge, cluster: n.name, served: map[owner]time.Time{},
		// Where readings are nearly as old as samples may become, these may be missing for a moment.
		allowed: leniency{values: behind + n.slow, labels: behind + n.slow, lose: maxAge < 4*n.slow}}
	err := await(ctx, func(ctx context.Context) error {
		page, err := h.Exporter.Scrape(ctx)
		if err == nil && len(check.Served(page.Of(n.name))) == 0 {
			err = fmt.Errorf("nothing of %s is on the page", n.name)
		}
		return err
	})
	return c, err
}
