package metricsapi

import (
	"math"
	"regexp"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
)

// maxQuantity bounds, in bytes, what is left to apimachinery. It has room for every float64 in any way of writing it.
const maxQuantity = 1024

// grammar is that of resource.Quantity's documentation, except that an exponent has at most three digits, whatever
// zeros are before them: apimachinery takes 1e-999999999 as an order to calculate 10^999999990, and 1e4294967299 for
// 1000, as it keeps 32 bits of the exponent. It also takes what has no digit at all ("m", "+") for a zero.
var grammar = regexp.MustCompile(
	`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]?|[eE][+-]?0*[0-9]{1,3})$`)

// ParseQuantity returns the number that a Kubernetes quantity means, as the float64 nearest to it. It is false for what
// is not a quantity by Parse, is negative or is beyond the range of a float64. "-0" is 0.
//
// What a quantity means is apimachinery's resource.ParseQuantity to say: it rounds up to a multiple of 1n, and binary
// ones (Ki..Ei) down to 2^63-1. Digits with or without a suffix, which is what metrics-server writes, cost no
// allocation.
func ParseQuantity(b []byte) (float64, bool) {
	if v, ok := parsePlain(b); ok {
		return v, true
	}
	if q, ok := Parse(string(b)); ok && q.Sign() >= 0 {
		return Float(q)
	}
	return 0, false
}

// Parse is resource.ParseQuantity for texts that nobody has verified. It is false for what is not a quantity by
// maxQuantity and grammar.
func Parse(text string) (resource.Quantity, bool) {
	if len(text) > maxQuantity {
		return resource.Quantity{}, false
	}
	if _, plain := parsePlain([]byte(text)); !plain && !grammar.MatchString(text) { // which takes longer than the rest
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(text)
	return q, err == nil
}

// Float returns the float64 nearest to a quantity, false for one beyond their range.
func Float(q resource.Quantity) (float64, bool) {
	v, err := strconv.ParseFloat(q.AsDec().String(), 64)
	if err != nil {
		return 0, false
	}
	return v, true
}

// valueOf returns the Value of a quantity.
func valueOf(quantity []byte) Value {
	if v, ok := ParseQuantity(quantity); ok {
		return Value{V: v, State: Valid}
	}
	return Value{State: Invalid}
}

// parsePlain reads digits and one of the suffixes that metrics-server writes, or none, where one rounding gives the
// result: it is false where the number does not fit, and for every other form.
func parsePlain(b []byte) (float64, bool) {
	var n uint64
	i := 0
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		if i == 18 { // 10^18-1 fits; leading zeros are too rare to be told apart.
			return 0, false
		}
		n = n*10 + uint64(b[i]-'0')
	}
	if i == 0 {
		return 0, false
	}
	switch string(b[i:]) {
	case "n":
		return float64(n) / 1e9, n <= 1<<53 // Up to there both are exact.
	case "u":
		return float64(n) / 1e6, n <= 1<<53
	case "m":
		return float64(n) / 1e3, n <= 1<<53
	case "":
		return float64(n), true
	case "Ki":
		return float64(n << 10), n <= math.MaxInt64>>10 // Above is apimachinery's cap.
	case "Mi":
		return float64(n << 20), n <= math.MaxInt64>>20
	case "Gi":
		return float64(n << 30), n <= math.MaxInt64>>30
	}
	return 0, false
}
