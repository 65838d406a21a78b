package metricsapi

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

func TestParseQuantity(t *testing.T) {
	const ok = true
	tests := []struct {
		in   string
		want float64
		ok   bool
	}{
		// What metrics-server writes.
		{"378089386n", 0.378089386, ok},
		{"61488047183n", 61.488047183, ok},
		{"1n", 1e-9, ok},
		{"12u", 0.000012, ok},
		{"7m", 0.007, ok},
		{"0", 0, ok},
		{"125448Ki", 128458752, ok},
		{"61Mi", 63963136, ok},
		{"2Gi", 2147483648, ok},
		{"1Ti", 1 << 40, ok},
		{"1Pi", 1 << 50, ok},
		{"1Ei", 1 << 60, ok},
		{"131072", 131072, ok},
		{"000000000000000000000000007m", 0.007, ok},

		// Every other legal form.
		{"5k", 5e3, ok},
		{"5M", 5e6, ok},
		{"5G", 5e9, ok},
		{"5T", 5e12, ok},
		{"5P", 5e15, ok},
		{"5E", 5e18, ok},
		{"1e3", 1000, ok},
		{"1E3", 1000, ok},
		{"1e+3", 1000, ok},
		{"12e-3", 0.012, ok},
		{"0.1", 0.1, ok},
		{"1.5Gi", 1610612736, ok},
		{".5", 0.5, ok},
		{"5.", 5, ok},
		{"+5", 5, ok},
		{"1.5Ei", 1.5 * (1 << 60), ok},
		{"100E", 1e20, ok},
		{"1e300", 1e300, ok},

		// As near as a float64 can be.
		{"9007199254740993", 9007199254740992, ok},
		{"9007199254740995", 9007199254740996, ok},
		{"9007199254740993n", 9007199.254740993, ok},
		{"18014398509481985n", 18014398.509481985, ok},
		{"999999999999999999n", 999999999.999999999, ok},
		{"9999999999999999999", 1e19, ok},
		{"123456789012345678901234567890", 123456789012345678901234567890, ok},
		{"1.23456789012345678901234567890e10", 12345678901.234567891, ok}, // Rounded up to nano.

		// Rounded up to nano, and binary ones down to 2^63-1, by apimachinery.
		{"0.1n", 1e-9, ok},
		{"1e-400", 1e-9, ok},
		{"8Ei", math.MaxInt64, ok},
		{"100Ei", math.MaxInt64, ok},

		// Zeros have no sign.
		{"-0", 0, ok},
		{"-0.000Ki", 0, ok},
		{"-0e5", 0, ok},

		// Neither negative nor beyond a float64.
		{"-1", 0, false},
		{"-1n", 0, false},
		{"-0.0000000000001", 0, false},
		{"-1Ki", 0, false},
		{"1e309", 0, false},
		{"1e400", 0, false},
		{strings.Repeat("9", 400), 0, false},
		{strings.Repeat("9", 400) + "n", 0, false},

		// Would take apimachinery hours or memory without end, or be something else to it.
		{"1e-999999999", 0, false},
		{"1e999999999", 0, false},
		{"1e4294967299", 0, false},
		{"1e99999999999999999999", 0, false},
		{"1E-1000", 0, false},
		{strings.Repeat("0", 2000) + "1", 0, false},

		// Not quantities.
		{"", 0, false},
		{" 1", 0, false},
		{"1 ", 0, false},
		{"one", 0, false},
		{"NaN", 0, false},
		{"Inf", 0, false},
		{"+", 0, false},
		{"m", 0, false},
		{".", 0, false},
		{"e0", 0, false},
		{"-.Ki", 0, false},
		{"1..5", 0, false},
		{"1,5", 0, false},
		{"0x10", 0, false},
		{"1_000", 0, false},
		{"1K", 0, false},
		{"1mi", 0, false},
		{"1ki", 0, false},
		{"1Kib", 0, false},
		{"1Ni", 0, false},
		{"1e", 0, false},
		{"1e3Ki", 0, false},
		{"1mm", 0, false},
		{"\x001", 0, false},
		{"１", 0, false},
	}
	for _, tt := range tests {
		name := tt.in
		if len(name) > 40 {
			name = fmt.Sprintf("%s… of %d bytes", name[:10], len(name))
		}
		t.Run(name, func(t *testing.T) {
			got, ok := ParseQuantity([]byte(tt.in))
			if got != tt.want || ok != tt.ok || math.Signbit(got) {
				t.Errorf("%v, %v; want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestParseQuantityInItsUsualFormsAllocatesNothing(t *testing.T) {
	for _, q := range []string{"378089386n", "12u", "7m", "0", "3", "125448Ki", "61Mi", "2Gi", "131072"} {
		b := []byte(q)
		if n := testing.AllocsPerRun(100, func() { ParseQuantity(b) }); n != 0 {
			t.Errorf("%s: %v allocations", q, n)
		}
	}
}

// FuzzParseQuantity holds ParseQuantity against the grammar and meaning in the documentation of resource.Quantity,
// calculated with math/big, and against resource.ParseQuantity itself.
func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{
		"378089386n", "125448Ki", "7m", "1.5Gi", "1e3", "-1", "+.5E", "1E-3", "100Ei", "0.1n", "-0", "", "m", "1e400",
		"9007199254740993n", "999999999999999999n", "9223372036854775807", "123456789.123456789123Mi", "1e1000",
		strings.Repeat("9", 400),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := ParseQuantity(b)
		if !ok && got != 0 || math.Signbit(got) || math.IsNaN(got) || math.IsInf(got, 0) {
			t.Fatalf("%q: %v, %v", b, got, ok)
		}
		want, wantOK := exactQuantity(string(b))
		if got != want || ok != wantOK {
			t.Fatalf("%q: %v, %v; want %v, %v", b, got, ok, want, wantOK)
		}
		if explosive.Match(b) || len(b) > maxQuantity || !grammar.Match(b) {
			return
		}
		q, err := resource.ParseQuantity(string(b))
		switch {
		case err != nil || q.Sign() < 0:
			if ok {
				t.Fatalf("%q: %v, apimachinery has %v, %v", b, got, q.String(), err)
			}
		case ok:
			if f := q.AsFloat64Slow(); math.Abs(f-got) > 1e-12*got {
				t.Fatalf("%q: %v, apimachinery has %v", b, got, f)
			}
		}
	})
}

var quantityGrammar = regexp.MustCompile(
	`^([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?[0-9]+)$`)

// exactQuantity is ParseQuantity by slow, plain means.
func exactQuantity(s string) (float64, bool) {
	m := quantityGrammar.FindStringSubmatch(s)
	if m == nil || len(s) > maxQuantity {
		return 0, false
	}
	suffix := m[3]
	number := m[1] + m[2]
	factor := big.NewRat(1, 1)
	binary := false
	switch {
	case len(suffix) == 2 && suffix[1] == 'i':
		binary = true
		factor.SetInt(new(big.Int).Lsh(big.NewInt(1), 10*uint(1+strings.Index("KMGTPE", suffix[:1]))))
	case len(suffix) == 1:
		exponent := map[string]int{"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}[suffix]
		factor.SetString(fmt.Sprintf("1e%d", exponent))
	case len(suffix) > 1:
		exponent, err := strconv.Atoi(suffix[1:])
		if err != nil || exponent < -999 || exponent > 999 {
			return 0, false
		}
		factor.SetString(fmt.Sprintf("1e%d", exponent))
	}
	v, ok := new(big.Rat).SetString(number)
	if !ok {
		panic(number)
	}
	v.Mul(v, factor)
	if v.Sign() < 0 {
		return 0, false
	}
	// Up to a multiple of 1n.
	nano := new(big.Rat).Mul(v, big.NewRat(1e9, 1))
	n := new(big.Int).Add(nano.Num(), new(big.Int).Sub(nano.Denom(), big.NewInt(1)))
	v.SetFrac(n.Div(n, nano.Denom()), big.NewInt(1e9))
	if most := new(big.Rat).SetInt64(math.MaxInt64); binary && v.Cmp(most) > 0 {
		v = most
	}
	f, _ := v.Float64()
	if math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}
