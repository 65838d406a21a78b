package gzpage

import "testing"

// TestWithoutProc is a container that has no /proc.
func TestWithoutProc(t *testing.T) {
	descriptors = "/there/is/no/such/folder/"
	defer func() { descriptors = "/proc/self/fd/" }()
	TestConnectionsGetThePage(t)
}
