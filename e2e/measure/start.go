package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// start measures how long the exporter takes from exec to the last byte of its first complete page, against the least
// that anybody must read for that: one watch-list of the pods and one list of their usage, read and thrown away. They take
// turns, so that whatever else the machine does hits both.
func (m *measurement) start(ctx context.Context) ([]result, error) {
	var pages, bares []time.Duration
	for range *starts {
		bare, err := m.bareRead(ctx)
		if err != nil {
			return nil, fmt.Errorf("bare read: %w", err)
		}
		e, page, err := m.launch(ctx)
		if err != nil {
			return nil, err
		}
		took := time.Since(e.Started)
		e.Close()
		if err := m.complete(page); err != nil {
			return nil, fmt.Errorf("first page: %w", err)
		}
		progress("first complete page %s after the start; the bare read took %s", took.Round(time.Millisecond), bare.Round(time.Millisecond))
		pages, bares = append(pages, took), append(bares, bare)
	}
	first, bare := median(pages), median(bares)
	ratio := first.Seconds() / bare.Seconds()
	return []result{
		{"start to first complete page", "≤ 3 s", first.Round(time.Millisecond).String(), first <= 3*time.Second},
		{"the same, against one watch-list and one metrics list read bare", "≤ 1.3x", fmt.Sprintf("%.2fx of %s", ratio, bare.Round(time.Millisecond)), ratio <= 1.3},
	}, nil
}

// bareRead reads the pods as a watch-list up to the bookmark that ends it, then all usage, over a new connection, and
// looks into nothing.
func (m *measurement) bareRead(ctx context.Context) (time.Duration, error) {
	config := m.plane.Config()
	// A dialer of its own makes a transport of its own: client-go would use the connection of an earlier read again.
	config.Dial = (&net.Dialer{}).DialContext
	transport, err := rest.TransportFor(config)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	begin := time.Now()
	watch, err := open(ctx, client, config.Host+"/api/v1/pods?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=300",
		"application/vnd.kubernetes.protobuf;stream=watch")
	if err != nil {
		return 0, err
	}
	defer watch.Close()
	if err := readInitialEvents(watch); err != nil {
		return 0, err
	}
	usage, err := open(ctx, client, config.Host+"/apis/metrics.k8s.io/v1beta1/pods", "application/vnd.kubernetes.protobuf")
	if err != nil {
		return 0, err
	}
	defer usage.Close()
	if _, err := io.Copy(io.Discard, usage); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

// readInitialEvents reads frames, each behind its length in four bytes, up to the bookmark behind the last initial event.
func readInitialEvents(watch io.Reader) error {
	var (
		length [4]byte
		frame  []byte
	)
	for {
		if _, err := io.ReadFull(watch, length[:]); err != nil {
			return err
		}
		frame = slices.Grow(frame[:0], int(binary.BigEndian.Uint32(length[:])))[:binary.BigEndian.Uint32(length[:])]
		if _, err := io.ReadFull(watch, frame); err != nil {
			return err
		}
		// Only a bookmark is that small.
		if len(frame) < 500 && strings.Contains(string(frame), metav1.InitialEventsAnnotationKey) {
			return nil
		}
	}
}

func open(ctx context.Context, client *http.Client, url, accept string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("Accept-Encoding", "identity")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		return nil, errors.Join(err, fmt.Errorf("%s: %s %s", url, response.Status, body))
	}
	return response.Body, nil
}

func median(durations []time.Duration) time.Duration { return quantile(durations, 0.5) }

// quantile is the smallest of the durations that this share of them does not exceed.
func quantile(durations []time.Duration, share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}
