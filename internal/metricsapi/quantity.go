package metricsapi

import (
	"bytes"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Limits on a quantity that is left to apimachinery, which takes 1e-999999999 as an order to calculate 10^999999990 and
// 1e4294967299 (32 bits are kept of the exponent) for 1000. They leave room for every float64 in any way of writing it.
const (
	maxQuantity = 1024 // Bytes.
	maxExponent = 999  // Of either sign.
)

// ParseQuantity returns the number that a Kubernetes quantity means, as the float64 nearest to it. It is false for what
// is not a quantity, is negative, is beyond the range of a float64 or beyond maxQuantity and maxExponent. "-0" is 0.
//
// What is a quantity, and what it means, is apimachinery's resource.ParseQuantity to say: it rounds up to a multiple of
// 1n, and binary ones (Ki..Ei) down to 2^63-1. Only a quantity without any digit ("m", "+"), a zero to that function
// and illegal by its documentation, is refused here.
//
// Digits with or without a suffix, which is what metrics-server writes, cost no allocation.
func ParseQuantity(b []byte) (float64, bool) {
	if v, ok := parsePlain(b); ok {
		return v, true
	}
	if len(b) > maxQuantity || !beginsWithNumber(b) || !isExponentSmall(b) {
		return 0, false
	}
	q, err := resource.ParseQuantity(string(b))
	if err != nil || q.Sign() < 0 {
		return 0, false
	}
	if q.Sign() == 0 {
		return 0, true
	}
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

// parsePlain reads digits followed by at most one suffix, where one rounding gives the result: it is false where the
// number does not fit, and for every other form.
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
	switch suffix := b[i:]; len(suffix) {
	case 0:
		return float64(n), true
	case 1:
		if p := strings.IndexByte("mun", suffix[0]); p >= 0 {
			return divide(n, float64(thousands[p]))
		}
		if p := strings.IndexByte("kMGTPE", suffix[0]); p >= 0 {
			return multiply(n, thousands[p])
		}
	case 2:
		if p := strings.IndexByte("KMGTPE", suffix[0]); p >= 0 && suffix[1] == 'i' {
			return multiply(n, 1024<<(10*p))
		}
	}
	return 0, false
}

var thousands = [...]uint64{1e3, 1e6, 1e9, 1e12, 1e15, 1e18}

// divide returns n/by rounded once, which needs both to be exact float64s.
func divide(n uint64, by float64) (float64, bool) {
	return float64(n) / by, n <= 1<<53
}

// multiply returns n*by rounded once. Above 2^63-1 is apimachinery's cap.
func multiply(n, by uint64) (float64, bool) {
	high, low := bits.Mul64(n, by)
	return float64(low), high == 0 && low <= math.MaxInt64
}

// beginsWithNumber tells that a digit follows the sign and the point, where there are any.
func beginsWithNumber(b []byte) bool {
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		b = b[1:]
	}
	if len(b) > 0 && b[0] == '.' {
		b = b[1:]
	}
	return len(b) > 0 && '0' <= b[0] && b[0] <= '9'
}

// isExponentSmall is false where what follows an e or E is a number beyond maxExponent.
func isExponentSmall(b []byte) bool {
	i := bytes.IndexAny(b, "eE")
	if i < 0 {
		return true
	}
	exponent, err := strconv.Atoi(string(b[i+1:]))
	if err != nil {
		return !errors.Is(err, strconv.ErrRange) // Not a number, as in "1Ei".
	}
	return -maxExponent <= exponent && exponent <= maxExponent
}
