package kube

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestLogOfClientGoIsForDebuggingOnly(t *testing.T) {
	t.Cleanup(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })
	for level, lines := range map[slog.Level]int{slog.LevelDebug: 4, slog.LevelInfo: 0, slog.LevelError: 0} {
		var log bytes.Buffer
		QuietClientLog(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))
		klog.InfoS("info")
		klog.ErrorS(errors.New("refused"), "error")
		klog.Background().WithName("reflector").WithValues("type", "Pod").Error(nil, "derived")
		klog.Warning("warning")
		klog.Background().V(8).Info("a body")
		got := log.String()
		if strings.Count(got, "\n") != lines || strings.Count(got, "level=DEBUG") != lines || strings.Count(got,
			"from=client-go") != lines {
			t.Errorf("at level %s it logs:\n%swant %d lines of level DEBUG", level, got, lines)
		}
	}
}
