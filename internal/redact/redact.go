// Package redact takes secrets out of texts that others have written: servers, and proxies before them, repeat in
// their answers what a request contained, and these answers are shown. So is what somebody has set in the
// wrong place.
package redact

import (
	"cmp"
	"encoding/base64"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// mark is how much of the beginning of a secret gives it away: somebody may have cut off its end. A shorter secret
	// has to be there as a whole.
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

// Credentials returns the secrets in a header that authorizes, such as Bearer TOKEN, or Basic with a user and a
// password in it.
func Credentials(header string) (secrets []string) {
	_, token, _ := strings.Cut(header, " ")
	secrets = []string{cmp.Or(token, header)}
	basic, _ := base64.StdEncoding.DecodeString(secrets[0])
	if user, password, found := strings.Cut(string(basic), ":"); found {
		secrets = append(secrets, user, password)
	}
	return secrets
}

// OneLine returns a text of others as one line of valid text, cut at a number of bytes.
func OneLine(text string, most int) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// content is how a token begins, and a key or certificate as it is and in base64.
var content = regexp.MustCompile(`-----BEGIN |(^|[/:])(LS0tLS1CRUdJTi|eyJ)`)

// IsName tells whether a text can be the name of a file or of something else, rather than what is in a file, plain or
// as base64. No file system has names above 255 bytes (NAME_MAX) and no system call takes a path above 4096
// (PATH_MAX); base64 of a text decodes to text.
func IsName(s string) bool {
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '/' || r == ':' }) {
		if len(part) > 255 {
			return false
		}
	}
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	return len(s) <= 4096 && strings.TrimSpace(s) == s && !strings.Contains(s, "{") && !content.MatchString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) &&
		(err != nil || len(text) < 48 || !utf8.Valid(text))
}
