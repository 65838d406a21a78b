package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// What the exporter is compared with runs in processes of its own, as the exporter does: this program, with one of
// these as its first argument and a path as its second.
const (
	staticServer = "internal-static-server" // path is that of a compressed page
	bareReader   = "internal-bare-reader"   // path is that of a kubeconfig
)

// child is such a process. It ends with its standard input, at the latest when this process does.
type child struct {
	pid  int
	in   io.WriteCloser
	out  *bufio.Reader
	wait func() error
}

func startChild(args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out), wait: cmd.Wait}, nil
}

// line is the next line that the child prints.
func (c *child) line() (string, error) {
	line, err := c.out.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (c *child) close() {
	c.in.Close()
	_ = c.wait() // there is nothing to learn from how it ends
}

// read has the bare reader read all usage once, and returns how long that took.
func (c *child) read() (time.Duration, error) {
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		return 0, err
	}
	line, err := c.line()
	if err != nil {
		return 0, fmt.Errorf("bare reader: %w", err)
	}
	return time.ParseDuration(line)
}

func serveChild(args []string) error {
	switch {
	case len(args) == 2 && args[0] == staticServer:
		return serveStatic(args[1])
	case len(args) == 2 && args[0] == bareReader:
		return serveBareReads(args[1])
	}
	return fmt.Errorf("unexpected arguments %q", args)
}

// serveBareReads reads the list of the pods' usage once for each line of its input, over one connection that stays
// open, throws it away, and prints how long that took.
func serveBareReads(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		began := time.Now()
		body, err := open(context.Background(), client, config.Host+podUsage, protobufType)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, body)
		body.Close()
		if err != nil {
			return err
		}
		fmt.Println(time.Since(began))
	}
	return nil
}

// serveStatic prints its URL and serves a file at it, by sendfile: without a copy in user space.
func serveStatic(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/metrics\n", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Header().Set("Content-Encoding", "gzip")
		// net/http leaves the length of encoded content away; without it the kernel could not send the file.
		w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
		http.ServeFile(w, r, path)
	}))
}
