package kube

import (
	"context"
	"io"
	"log/slog"

	"k8s.io/klog/v2"
)

// SetLog has everything logged to w, without the credentials of requests, and client-go's own log at debug level only.
func SetLog(w io.Writer, level slog.Level, json bool) {
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(WithoutCredentials(w), options)
	if json {
		handler = slog.NewJSONHandler(WithoutCredentials(w), options)
	}
	slog.SetDefault(slog.New(handler))
	QuietClientLog(handler)
}

// QuietClientLog sends client-go's own log to the handler at debug level. client-go logs every attempt; what matters of
// it is reported as a Failure, once per change of state and with the way out.
func QuietClientLog(h slog.Handler) {
	klog.SetSlogLogger(slog.New(debugOnly{h}).With("from", "client-go"))
}

type debugOnly struct{ slog.Handler }

// Enabled keeps out what is below debug, which has whole bodies in it.
func (h debugOnly) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelDebug && h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h debugOnly) Handle(ctx context.Context, r slog.Record) error {
	if !h.Enabled(ctx, r.Level) { // klog does not ask before it logs an error
		return nil
	}
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps loggers that are derived from this one at debug level.
func (h debugOnly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return debugOnly{h.Handler.WithAttrs(attrs)}
}

// WithGroup does the same.
func (h debugOnly) WithGroup(name string) slog.Handler { return debugOnly{h.Handler.WithGroup(name)} }
