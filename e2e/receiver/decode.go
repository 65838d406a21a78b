package receiver

import (
	"fmt"
	"math"
	"net/http"
	"unicode/utf8"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// Decode reads a request of remote write 1.0 (https://prometheus.io/docs/specs/prw/remote_write_spec/) and refuses what
// breaks its rules: headers, labels sorted by name, none twice and none empty, a name, a sample for each series. It
// knows the message by the numbers of its fields and shares no code with the exporter.
func Decode(header http.Header, body []byte) ([]Series, error) {
	for name, want := range map[string]string{"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf",
		"X-Prometheus-Remote-Write-Version": "0.1.0"} {
		if got := header.Get(name); got != want {
			return nil, fmt.Errorf("%w: %s is %q, not %q", errNotRemoteWrite, name, got, want)
		}
	}
	if header.Get("User-Agent") == "" {
		return nil, fmt.Errorf("%w: no User-Agent", errNotRemoteWrite)
	}
	message, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotRemoteWrite, err)
	}
	var all []Series
	err = fields(message, func(number protowire.Number, value []byte, _ uint64) error {
		if number != 1 { // metadata
			return nil
		}
		series, err := decodeSeries(value)
		all = append(all, series)
		return err
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%w: no series", errNotRemoteWrite)
	}
	return all, err
}

func decodeSeries(message []byte) (s Series, err error) {
	s.Labels = map[string]string{}
	before := ""
	err = fields(message, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			var pair [3]string // by the field's number
			if err := fields(value, func(number protowire.Number, text []byte, _ uint64) error {
				if number < 3 {
					pair[number] = string(text)
				}
				return nil
			}); err != nil {
				return err
			}
			if pair[1] <= before || pair[2] == "" || !utf8.ValidString(pair[2]) {
				return fmt.Errorf("%w: label %q=%q after %q of %v", errNotRemoteWrite, pair[1], pair[2], before, s.Labels)
			}
			before, s.Labels[pair[1]] = pair[1], pair[2]
		case 2:
			var sample Sample
			if err := fields(value, func(number protowire.Number, _ []byte, bits uint64) error {
				switch number {
				case 1:
					sample.Value = math.Float64frombits(bits)
				case 2:
					sample.At = int64(bits)
				}
				return nil
			}); err != nil {
				return err
			}
			s.Samples = append(s.Samples, sample)
		}
		return nil
	})
	if err == nil && (s.Labels["__name__"] == "" || len(s.Samples) == 0) {
		err = fmt.Errorf("%w: a series without a name or a sample: %v", errNotRemoteWrite, s.Labels)
	}
	return s, err
}

// fields calls f for each field of a message, with the bytes or the number that is its value.
func fields(message []byte, f func(number protowire.Number, bytes []byte, bits uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("%w: %w", errNotRemoteWrite, protowire.ParseError(n))
		}
		message = message[n:]
		var value []byte
		var bits uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			bits, n = protowire.ConsumeVarint(message)
		case protowire.Fixed64Type:
			bits, n = protowire.ConsumeFixed64(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errNotRemoteWrite, protowire.ParseError(n))
		}
		message = message[n:]
		if err := f(number, value, bits); err != nil {
			return err
		}
	}
	return nil
}
