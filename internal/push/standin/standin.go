// Package standin stands in for a receiver of remote write, in tests.
package standin

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"metrics-server-prom/internal/label"
)

// Sample is what a series has, at a moment in Unix milliseconds.
type Sample struct {
	At    int64
	Value float64
}

// IsStale tells whether it is a stale marker.
func (s Sample) IsStale() bool { return math.Float64bits(s.Value) == 0x7ff0000000000002 }

func (s Sample) String() string {
	if s.IsStale() {
		return fmt.Sprintf("%d:stale", s.At)
	}
	return fmt.Sprintf("%d:%v", s.At, s.Value)
}

// Receiver keeps all that it takes. It finds fault with what Prometheus refuses: a series that goes back in time, or
// that has two values at a moment.
type Receiver struct {
	// Answer is the status of each answer, and whether the request is taken; nil takes all.
	Answer func() (status int, taken bool)
	// Ignored are beginnings of the names of metrics that are not kept.
	Ignored []string

	mu     sync.Mutex
	has    map[string][]Sample
	faults []string
}

// Samples returns what each series has got. A series is named as in queries, its labels sorted by name:
//
//	up{instance="i",job="j"}
func (r *Receiver) Samples() map[string][]Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.has)
}

// Live returns the last sample of each series that has not ended.
func (r *Receiver) Live() map[string]Sample {
	live := map[string]Sample{}
	for series, samples := range r.Samples() {
		if last := samples[len(samples)-1]; !last.IsStale() {
			live[series] = last
		}
	}
	return live
}

// Faults returns what was wrong with requests so far.
func (r *Receiver) Faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.faults
}

// ServeHTTP takes a request.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	status, taken := http.StatusNoContent, true
	if r.Answer != nil {
		status, taken = r.Answer()
	}
	if taken {
		r.take(body)
	}
	w.WriteHeader(status)
}

func (r *Receiver) take(body []byte) {
	message, err := snappy.Decode(nil, body)
	if err != nil {
		r.faults = append(r.faults, err.Error())
	}
	if r.has == nil {
		r.has = map[string][]Sample{}
	}
	r.fields(message, func(_ protowire.Number, series []byte, _ uint64) {
		var name string
		var labels []byte
		var s Sample
		r.fields(series, func(number protowire.Number, content []byte, _ uint64) {
			var pair [3]string
			r.fields(content, func(field protowire.Number, text []byte, n uint64) {
				switch {
				case number == 1:
					pair[field] = string(text)
				case field == 1:
					s.Value = math.Float64frombits(n)
				default:
					s.At = int64(n)
				}
			})
			switch {
			case number == 1 && pair[1] == "__name__":
				name = pair[2]
			case number == 1:
				labels = label.Append(labels, pair[1], pair[2])
			}
		})
		if slices.ContainsFunc(r.Ignored, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return
		}
		key := name + "{" + string(labels) + "}"
		if has := r.has[key]; len(has) > 0 {
			if last := has[len(has)-1]; last.At > s.At || last.At == s.At && last.String() != s.String() {
				r.faults = append(r.faults, fmt.Sprintf("%s: %v after %v", key, s, last))
			}
		}
		r.has[key] = append(r.has[key], s)
	})
}

// fields calls f with the number of each field of a message, and its content or value.
func (r *Receiver) fields(message []byte, f func(number protowire.Number, content []byte, n uint64)) {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		message = message[max(length, 0):]
		var content []byte
		var value uint64
		switch kind {
		case protowire.BytesType:
			content, length = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			value, length = protowire.ConsumeVarint(message)
		case protowire.Fixed64Type:
			value, length = protowire.ConsumeFixed64(message)
		}
		if length <= 0 {
			r.faults = append(r.faults, "not a message")
			return
		}
		f(number, content, value)
		message = message[length:]
	}
}
