package page

import (
	"strconv"
	"strings"
)

// Accepts tells which encodings of a page a client takes, by its Accept-Encoding header (RFC 9110 section 12.5.3), its
// lines joined by commas. A coding with a weight of 0 is refused, "*" stands for those that are not named, and identity
// is taken unless it is refused. What is malformed counts as not being there.
func Accepts(header string) (gzip, identity bool) {
	weight := map[string]bool{}
	for element := range strings.SplitSeq(header, ",") {
		coding, parameters, _ := strings.Cut(element, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding == "x-gzip" { // "SHOULD consider equivalent", section 8.4.1.3
			coding = "gzip"
		}
		taken := true
		if parameter := strings.TrimSpace(parameters); parameter != "" {
			name, value, _ := strings.Cut(parameter, "=")
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if !strings.EqualFold(strings.TrimSpace(name), "q") || err != nil || !(q >= 0 && q <= 1) {
				continue
			}
			taken = q > 0
		}
		if coding != "" {
			weight[coding] = taken
		}
	}
	other, named := weight["*"]
	gzip, identity = other, !named || other
	if taken, named := weight["gzip"]; named {
		gzip = taken
	}
	if taken, named := weight["identity"]; named {
		identity = taken
	}
	return gzip, identity
}
