package push

import (
	"bytes"
	"io"
)

// lineWriter passes the lines of a page on, as they are to be pushed. It keeps what follows the last line's end.
type lineWriter struct {
	to        io.Writer
	labels    string
	rest, out []byte
}

func (l *lineWriter) Write(text []byte) (int, error) {
	l.rest = append(l.rest, text...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	l.out = appendLines(l.out[:0], l.rest[:end], l.labels)
	l.rest = l.rest[:copy(l.rest, l.rest[end:])]
	if _, err := l.to.Write(l.out); err != nil {
		return 0, err
	}
	return len(text), nil
}

// end passes on a last line that has no end.
func (l *lineWriter) end() error {
	_, err := l.Write([]byte{'\n'})
	return err
}

// appendLines appends the lines of a page with the labels added to each sample, in the way of VictoriaMetrics' library
// (addExtraLabels in its push.go). The metrics of the process are left out: a Pushgateway shows everything it was sent
// on one page with the metrics of itself, and refuses a push with the names of those.
func appendLines(to, page []byte, labels string) []byte {
	for line := range bytes.Lines(page) {
		line = bytes.TrimSpace(line)
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if len(line) == 0 || bytes.HasPrefix(name, []byte("go_")) || bytes.HasPrefix(name, []byte("process_")) {
			continue
		}
		brace := bytes.IndexByte(line, '{')
		space := bytes.LastIndexByte(line, ' ')
		switch {
		case line[0] == '#' || labels == "":
			to = append(to, line...)
		case brace >= 0:
			to = append(append(append(append(to, line[:brace+1]...), labels...), ','), line[brace+1:]...)
		case space >= 0:
			to = append(append(append(to, line[:space]...), '{'), labels...)
			to = append(append(to, '}'), line[space:]...)
		}
		to = append(to, '\n')
	}
	return to
}
