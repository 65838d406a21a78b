// Package label makes label text of the exposition format: names, and values of any content.
package label

import (
	"regexp"
	"strconv"
	"strings"
)

var escapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`, "\x00", "\uFFFD")

// Escape makes a label value of any string. What is no text (invalid UTF-8, NUL) becomes U+FFFD, because Prometheus
// would refuse the whole page for it.
func Escape(s string) string {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return escapes.Replace(strings.ToValidUTF8(s, "\uFFFD"))
		}
	}
	return s
}

var unescapes = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\"`, `"`)

// Unescape returns what Escape has made a label value of, but for what was no text.
func Unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	return unescapes.Replace(s)
}

// Append appends labels, given as name, value, name, value, with a comma before each but the first. A value
// without a name is label text already.
func Append(to []byte, pairs ...string) []byte {
	for i := 0; i < len(pairs); i += 2 {
		if len(to) > 0 {
			to = append(to, ',')
		}
		if pairs[i] == "" {
			to = append(to, pairs[i+1]...)
			continue
		}
		to = append(append(append(append(to, pairs[i]...), `="`...), Escape(pairs[i+1])...), '"')
	}
	return to
}

// Cluster is the label of a cluster's samples as it stands behind their other labels: ,cluster="eu"; "" for "", which
// is the name of a cluster that is the only one.
func Cluster(name string) string {
	if name == "" {
		return ""
	}
	return "," + string(Append(nil, "cluster", name))
}

// Value returns the value of a label in a label text without braces, without its escapes; "" where there is none.
func Value(text, name string) string {
	for text != "" {
		pair := quoted(text, 2)
		if key, value, _ := strings.Cut(pair, `="`); key == name {
			return Unescape(value[:len(value)-1])
		}
		text = strings.TrimPrefix(text[len(pair):], ",")
	}
	return ""
}

var (
	notInName = regexp.MustCompile(`[^a-zA-Z0-9_]`)
	camelCase = regexp.MustCompile(`([a-z0-9])([A-Z])`)
)

// Sanitize makes every character _ that cannot stand in the name of a label, as kube-state-metrics does with names of
// resources too.
func Sanitize(s string) string { return notInName.ReplaceAllString(s, "_") }

// Names returns the names on a page for labels of Kubernetes, as kube-state-metrics names them (internal/store/utils.go
// there): what cannot stand in a name becomes _, camelCase becomes snake_case, and labels that would get the same name
// are told apart by _conflictN.
func Names(keys []string) []string {
	names, uses := make([]string, len(keys)), map[string]int{}
	for i, key := range keys {
		names[i] = "label_" + strings.ToLower(camelCase.ReplaceAllString(Sanitize(key), "${1}_${2}"))
		uses[names[i]]++
	}
	seen := map[string]int{}
	for i, name := range names {
		if uses[name] < 2 {
			continue
		}
		for uses[names[i]] > 0 { // a label that is called so by itself stays
			seen[name]++
			names[i] = name + "_conflict" + strconv.Itoa(seen[name])
		}
	}
	return names
}
