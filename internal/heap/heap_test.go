package heap

import (
	"runtime/debug"
	"testing"
)

func TestCollectsSoonerUnlessGOGCIsSet(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for _, test := range []struct {
		gogc         string
		furtherPages bool
		want         int
	}{{"", false, 25}, {"", true, 10}, {"200", true, 100}} {
		debug.SetGCPercent(100)
		t.Setenv("GOGC", test.gogc)
		Limit(test.furtherPages)
		if got := debug.SetGCPercent(100); got != test.want {
			t.Errorf("GOGC=%q, further pages %t: %d, want %d", test.gogc, test.furtherPages, got, test.want)
		}
	}
}
