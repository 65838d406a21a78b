package state

import (
	"testing"

	"metrics-server-prom/internal/slim"
)

func TestQuantities(t *testing.T) {
	for name, test := range map[string]struct {
		value       string
		whole       float64 // of bytes or pieces
		thousandths float64 // of cores
		ok          bool
	}{
		"a number":                    {"2", 2, 2, true},
		"thousandths":                 {"1500m", 2, 1.5, true},
		"less than a thousandth":      {"1n", 1, 0.001, true},
		"binary":                      {"1.5Gi", 1610612736, 1610612736, true},
		"an exponent":                 {"12e-3", 1, 0.012, true},
		"a sign":                      {"+5", 5, 5, true},
		"negative, away from zero":    {"-1500u", -1, -0.002, true},
		"thousandths beyond 2^53":     {"9007199254741", 9007199254741, 9007199254741, true},
		"thousandths beyond 2^63":     {"10P", 1e16, 1e16, true},
		"the same, negative":          {"-10P", -1e16, -1e16, true},
		"beyond 2^63":                 {"10E", 1e19, 1e19, true},
		"beyond 2^63, with a tail":    {"1e30", 1e30, 1e30, true},
		"beyond a float64":            {"1e400", 0, 0, false},
		"small without end":           {"1e-999999999", 0, 0, false},
		"large without end":           {"1e999999999", 0, 0, false},
		"another one to apimachinery": {"1e4294967299", 0, 0, false},
		"no digit":                    {"m", 0, 0, false},
		"no quantity":                 {"one", 0, 0, false},
		"nothing":                     {"", 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			whole, ok := amount(slim.Quantity{Name: "memory", Value: test.value})
			thousandths, alsoOK := amount(slim.Quantity{Name: "cpu", Value: test.value})
			ofQuota, quotaOK := milli(slim.Quantity{Name: "requests.memory", Value: test.value})
			if whole != test.whole || thousandths != test.thousandths || ofQuota != test.thousandths ||
				ok != test.ok || alsoOK != test.ok || quotaOK != test.ok {
				t.Errorf("%v %t, %v %t, %v %t", whole, ok, thousandths, alsoOK, ofQuota, quotaOK)
			}
		})
	}
}
