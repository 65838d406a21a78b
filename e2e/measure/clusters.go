package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"metrics-server-prom/demo/standin"
	"metrics-server-prom/e2e/check"
	"metrics-server-prom/e2e/exporter"
	"metrics-server-prom/e2e/process"
)

// clusters are simulated clusters that one exporter reads.
type clusters struct {
	kubeconfig string
	apis       map[string]*standin.Server // by context
	pods       int                        // in all
}

// newClusters starts so many clusters with these pods in all.
func newClusters(dir string, number, pods int) (*clusters, error) {
	c := &clusters{filepath.Join(dir, fmt.Sprint("kubeconfig-", number)), map[string]*standin.Server{}, pods}
	config := clientcmdapi.NewConfig()
	for i := range number {
		name := fmt.Sprint("cluster-", i)
		api, err := standin.New(standin.Options{Nodes: max(3, pods/number/30), Pods: pods / number, Containers: *containers,
			Resolution: *resolutionFlag, Seed: uint64(i + 1), Behavior: standin.Behavior{NoGzip: true},
			Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		c.apis[name] = api
		config.Clusters[name] = &clientcmdapi.Cluster{Server: api.URL(), CertificateAuthorityData: api.CAData()}
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: api.RESTConfig().BearerToken}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
		config.CurrentContext = name
	}
	return c, clientcmd.WriteToFile(*config, c.kubeconfig)
}

func (c *clusters) close() {
	for _, api := range c.apis {
		api.Close()
	}
}

// measureClusters compares the memory of an exporter of several clusters with that of one of a single cluster that has
// as many pods as all of them, and each sample of a page with what its cluster's API says.
func measureClusters(ctx context.Context, number, pods int) (title string, results []result, err error) {
	original, err := exporterPath()
	if err != nil {
		return "", nil, err
	}
	s := &simulated{resolution: *resolutionFlag}
	if s.dir, err = os.MkdirTemp("", "metrics-server-prom-measure-"); err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(s.dir)
	var all [2]*clusters
	for i, n := range []int{1, number} {
		if all[i], err = newClusters(s.dir, n, pods); err != nil {
			return "", nil, err
		}
		defer all[i].close()
	}
	var peaks [2][]int64
	var kind string
	for round := range baselineRounds {
		for i, c := range all {
			progress("memory with %d clusters, %d of %d", len(c.apis), round+1, baselineRounds)
			peak, of, err := s.peakWith(ctx, original, c, round == 0)
			if err != nil {
				return "", nil, err
			}
			peaks[i], kind = append(peaks[i], peak), of
		}
	}
	one, several := median(peaks[0]), median(peaks[1])
	ratio := float64(several) / float64(one)
	return fmt.Sprintf("SIMULATED: %d clusters of %d pods, %d containers each, against one of %d pods, new values "+
			"every %s", number, pods/number, *containers, pods, s.resolution), []result{
			{fmt.Sprintf("peak of the cgroup (%s) over %d refreshes with a scrape each, against one cluster's", kind, settling),
				"≤ 1.15x", fmt.Sprintf("%.2fx: %s of %s", ratio, size(several), size(one)), ratio <= 1.15},
			{"samples of a page that are what their cluster's API says", "all", fmt.Sprint(all[1].samples()), true},
		}, nil
}

// samples is how many a complete page has.
func (c *clusters) samples() (n int) {
	for _, api := range c.apis {
		n += 2 * (len(api.Nodes()) + len(api.Pods())**containers)
	}
	return n
}

// peakWith is the memory of an exporter of clusters over some refreshes, each with a scrape; see inCgroup. compares:
// each sample is compared, too.
func (s *simulated) peakWith(ctx context.Context, original string, c *clusters, compares bool) (peak int64, kind string,
	err error) {
	return s.inCgroup(original, func(o exporter.Options, counts func(*exporter.Exporter) error) error {
		o.Args = []string{"--kubeconfig=" + c.kubeconfig}
		if len(c.apis) > 1 {
			o.Args = append(o.Args, "--context=*")
		}
		e, err := exporter.Start(ctx, o)
		if err != nil {
			return err
		}
		defer e.Close()
		complete := func(ctx context.Context) error {
			page, err := e.Fetch(ctx)
			if err != nil {
				return err
			}
			text, err := page.Decompress()
			if n := countSamples(text); err == nil && n != c.samples() {
				err = fmt.Errorf("the page has %d complete samples, the clusters have %d", n, c.samples())
			}
			return err
		}
		start, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no complete page within 2 minutes"))
		defer cancel()
		if err := process.Await(start, 500*time.Millisecond, complete); err != nil {
			return err
		}
		tick := time.NewTicker(s.resolution)
		defer tick.Stop()
		for range settling {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := complete(ctx); err != nil {
				return err
			}
		}
		if err = counts(e); err == nil && compares && len(c.apis) > 1 {
			err = c.compare(ctx, e)
		}
		return err
	})
}

// compare compares pages with what each cluster's API says before and after the page: each cluster until nothing has
// changed in it meanwhile.
func (c *clusters) compare(ctx context.Context, e *exporter.Exporter) error {
	for name, api := range c.apis {
		progress("comparing each sample of %s", name)
		config := api.RESTConfig()
		config.ContentType = protobufType
		client, err := check.Client(config)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not within 3 minutes"))
		defer cancel()
		if _, err := check.Equal(ctx, client, e, check.Scope{Cluster: name}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
