package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test binary a clock that prints the time every 10 ms where the test runs it as that.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "clock" {
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			fmt.Println(time.Now().Unix(), time.Since(began).Nanoseconds())
		}
	}
	os.Exit(m.Run())
}

func TestClockOfOneProcessIsSetBack(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clock, err := Start(Command{Name: "clock", Path: self, Args: []string{"clock"},
		Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clock.Kill)
	// last is the last line that was written after a moment: seconds of the wall clock, nanoseconds of the monotonic
	// one.
	last := func(lines int) (wall, monotonic int64, all int) {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			log := strings.Split(strings.TrimSuffix(clock.Log(), "\n"), "\n")
			if fields := strings.Fields(log[len(log)-1]); len(log) > lines+2 && len(fields) == 2 {
				wall, _ = strconv.ParseInt(fields[0], 10, 64)
				monotonic, _ = strconv.ParseInt(fields[1], 10, 64)
				return wall, monotonic, len(log)
			}
		}
		t.Fatal("the clock prints nothing")
		return 0, 0, 0
	}
	_, before, lines := last(0)
	for attempt := 0; ; attempt++ {
		if err := clock.Freeze(); err != nil {
			t.Fatal(err)
		}
		err := clock.ShiftClock(time.Hour)
		if err := clock.Thaw(); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			break
		}
		if errors.Is(err, ErrClock) && os.Getenv("CI") == "" {
			t.Skip(err)
		}
		if attempt == 20 {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	wall, after, _ := last(lines + 2)
	if behind := time.Now().Unix() - wall; behind < 3600 || behind > 3602 {
		t.Errorf("the clock is %d s behind, not an hour", behind)
	}
	if after <= before || after-before > int64(20*time.Second) {
		t.Errorf("the monotonic clock went from %d to %d", before, after)
	}
}
