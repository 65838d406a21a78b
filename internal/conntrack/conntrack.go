// Package conntrack replaces github.com/mwitkow/go-conntrack in the build (see replace in the project's go.mod). It has
// what prometheus/common needs to compile: a dialer, without that package's tracing.
//
// The exporter-toolkit brings prometheus/common's HTTP client, and with it go-conntrack and golang.org/x/net/trace,
// whose debug pages are HTML templates. Templates call methods by name, so that a program in which they can be reached
// must keep every exported method of every type: a quarter of this one. This program makes no connection by that
// client, and has no debug pages.
package conntrack

import (
	"context"
	"net"
)

type dialFunc = func(context.Context, string, string) (net.Conn, error)

// DialerOpt is an option of NewDialContextFunc.
type DialerOpt func(*dialFunc)

// DialWithTracing does nothing.
func DialWithTracing() DialerOpt { return func(*dialFunc) {} }

// DialWithName does nothing: a name is for tracing.
func DialWithName(string) DialerOpt { return func(*dialFunc) {} }

// DialWithDialContextFunc sets what dials in place of a net.Dialer.
func DialWithDialContextFunc(dial func(context.Context, string, string) (net.Conn, error)) DialerOpt {
	return func(d *dialFunc) { *d = dial }
}

// NewDialContextFunc returns what dials.
func NewDialContextFunc(opts ...DialerOpt) func(context.Context, string, string) (net.Conn, error) {
	dial := (&net.Dialer{}).DialContext
	for _, opt := range opts {
		opt(&dial)
	}
	return dial
}
