// Package redact takes secrets out of texts that others have written: servers, and proxies before them, repeat in
// their answers what a request contained, and these answers are shown.
package redact

import "strings"

const (
	// mark is how much of the beginning of a secret gives it away: somebody may have cut off its end. A shorter secret has
	// to be there as a whole.
	mark = 8
	// tooShort is the length below which hiding a secret would take half of every text away.
	tooShort = 4
)

// Text returns the text with … in place of each of the secrets, and of each beginning of one.
func Text(text string, secrets []string) string {
	var b strings.Builder
	for text != "" {
		longest := 0 // of the secrets that begin here: tokens have their first bytes in common
		for _, secret := range secrets {
			n := 0
			for n < min(len(secret), len(text)) && secret[n] == text[n] {
				n++
			}
			if len(secret) >= tooShort && n >= min(mark, len(secret)) {
				longest = max(longest, n)
			}
		}
		if longest > 0 {
			b.WriteString("…")
			text = text[longest:]
			continue
		}
		b.WriteByte(text[0])
		text = text[1:]
	}
	return b.String()
}
