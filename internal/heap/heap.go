// Package heap has the process stay within its container's memory.
package heap

import (
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// Limit has the garbage collector stay below the container's limit, of which the kernel takes a part, and collect
// sooner than by default: the heap is small, and mostly long-lived, the more so with further pages. GOMEMLIMIT and
// GOGC win.
func Limit(furtherPages bool) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(map[bool]int{false: 25, true: 10}[furtherPages])
	}
	memlimit.Set(memlimit.WithRatio(0.8), memlimit.WithProvider(memlimit.FromCgroup))
}
