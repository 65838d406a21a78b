package push

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzip"
)

// longest is how long the push of a page may take; its snapshots are kept in memory until then.
const longest = time.Minute

// pushPage sends the page as it is written, so that memory does not depend on its size.
func (p *Pusher) pushPage(ctx context.Context, once bool) (samples int, err error) {
	defer p.connection().renew() // as what is written as it is sent cannot be sent again
	ctx, cancel := withTimeout(ctx, min(p.patience(), longest))
	defer cancel()
	pipe, w := io.Pipe()
	text := &lineWriter{labels: p.ExtraLabels}
	written := make(chan error, 1)
	go func() {
		err := p.writePage(ctx, w, text, once)
		w.CloseWithError(err) // nil makes it an io.EOF
		written <- err
	}()
	// A page that fails at its beginning is not worth a request.
	const beginning = 64 << 10
	page := bufio.NewReaderSize(pipe, beginning)
	if _, err := page.Peek(beginning); err != nil && err != io.EOF {
		if ctx.Err() != nil {
			err = errors.New("no data yet, see /healthz")
		}
		return 0, fmt.Errorf("there is no page to push: %w", err)
	}
	method := http.MethodPost // which a Pushgateway adds to what it has: what is gone would stay there for ever
	if p.isGroup() {
		method = http.MethodPut
	}
	f := p.send(ctx, method, http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"gzip"}}, struct {
		io.Reader
		io.Closer
	}{page, pipe})
	broken := <-written
	switch {
	case broken != nil && !errors.Is(broken, io.ErrClosedPipe) && ctx.Err() == nil:
		return 0, fmt.Errorf("the page broke off: %w", broken)
	case f != nil:
		return 0, f
	case broken != nil:
		return 0, p.fail(0, 0, "the receiver answered before it had the whole page")
	}
	return text.samples, nil
}

// withdraw empties a Pushgateway's group where a push at the interval came to nothing, as err says: the gateway would
// show for ever, and as new, what it has of an earlier push, or of a process that was killed. One that cannot be
// reached, or takes nothing of this program, is not asked. It is done once, until something may be in the group again.
func (p *Pusher) withdraw(ctx context.Context, err error, once bool) error {
	f, ok := errors.AsType[*failure](err)
	if once || err == nil || ok && (f.isPassing() || f.isOfSender()) {
		p.emptied = false
		return err
	}
	if p.emptied || !p.isGroup() || ctx.Err() != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx, goodbye)
	defer cancel()
	if failed := p.deleteGroup(ctx); failed != nil {
		return fmt.Errorf("%w; nor can the values of before be taken away: %w", err, failed)
	}
	p.emptied = true
	return err
}

// deleteGroup takes everything of a Pushgateway's group away.
func (p *Pusher) deleteGroup(ctx context.Context) error {
	defer p.connection().renew()
	if f := p.send(ctx, http.MethodDelete, nil, &batchBody{}); f != nil {
		return f
	}
	return nil
}

// writePage writes the page as gzip. Only a whole page gets gzip's end, so that nobody takes half of one for it.
func (p *Pusher) writePage(ctx context.Context, w io.Writer, text *lineWriter, once bool) error {
	compressed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	text.to = compressed
	if err := p.Page(ctx, text, once); err != nil {
		return err
	}
	if _, err := text.Write([]byte("\n")); err != nil { // the end of a last line that has none
		return err
	}
	return compressed.Close()
}

// lineWriter passes the lines of a page on, as they are to be pushed. It keeps what follows the last line's end.
type lineWriter struct {
	to        io.Writer
	labels    string
	rest, out []byte
	samples   int
}

func (l *lineWriter) Write(text []byte) (int, error) {
	l.rest = append(l.rest, text...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	l.appendLines(l.rest[:end])
	l.rest = l.rest[:copy(l.rest, l.rest[end:])]
	if _, err := l.to.Write(l.out); err != nil {
		return 0, err
	}
	l.out = l.out[:0]
	return len(text), nil
}

// appendLines appends to out the lines of a page with the labels added to each sample, in the way of VictoriaMetrics'
// library (addExtraLabels in its push.go). The metrics of the process are left out: a Pushgateway shows everything it
// was sent on one page with the metrics of itself, and refuses a push with the names of those.
func (l *lineWriter) appendLines(page []byte) {
	for line := range bytes.Lines(page) {
		line = bytes.TrimSpace(line)
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if len(line) == 0 || bytes.HasPrefix(name, []byte("go_")) || bytes.HasPrefix(name, []byte("process_")) {
			continue
		}
		brace := bytes.IndexByte(line, '{')
		space := bytes.LastIndexByte(line, ' ')
		isSample := line[0] != '#'
		switch {
		case !isSample || l.labels == "":
			l.out = append(l.out, line...)
		case brace >= 0:
			l.out = fmt.Appendf(l.out, "%s%s,%s", line[:brace+1], l.labels, line[brace+1:])
		case space >= 0:
			l.out = fmt.Appendf(l.out, "%s{%s}%s", line[:space], l.labels, line[space:])
		}
		if l.out = append(l.out, '\n'); isSample {
			l.samples++
		}
	}
}
