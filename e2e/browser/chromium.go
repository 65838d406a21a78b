// Package browser drives the browsers that people have, without a window: Chromium over the DevTools protocol, Firefox
// over WebDriver BiDi.
package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"metrics-server-prom/e2e/process"
)

// Chromium is a running Chromium.
type Chromium struct {
	ctx  context.Context
	stop func()
}

// StartChromium starts a Chromium that finds no host but this one.
func StartChromium() (*Chromium, error) {
	path, err := find("chromium", "google-chrome")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), chromedp.WindowSize(1280, 900))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopBrowser := chromedp.NewContext(ctx)
	c := &Chromium{ctx: ctx, stop: func() { stopBrowser(); stop() }}
	if err := chromedp.Do(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	return c, nil
}

// Close ends it and all its tabs.
func (c *Chromium) Close() { c.stop() }

// ErrMissing says that a browser is not installed.
var ErrMissing = errors.New("not installed; .ci/browsers.sh installs it")

// find is the path of the first of these programs that there is.
func find(names ...string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", strings.Join(names, ", "), ErrMissing)
}

// Tab is a tab of Chromium that shares nothing with others.
type Tab struct {
	ctx  context.Context
	stop func()

	mu       sync.Mutex
	problems []string
	requests []string
	received int64
}

// Open opens a tab of this size. It is closed with Close.
func (c *Chromium) Open(width, height int64) (*Tab, error) {
	t := &Tab{}
	t.ctx, t.stop = chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(t.see))
	if err := t.Do(chromedp.EmulateViewport(width, height)); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Close closes it.
func (t *Tab) Close() { t.stop() }

// see takes an event of the page.
func (t *Tab) see(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
		t.problems = append(t.problems, "exception: "+text)
	case *runtime.EventConsoleAPICalled:
		line := "console." + string(e.Type) + ":"
		for _, arg := range e.Args {
			line += " " + string(arg.Value) + arg.Description
		}
		t.problems = append(t.problems, line)
	case *log.EventEntryAdded:
		t.problems = append(t.problems, fmt.Sprintf("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *network.EventRequestWillBeSent:
		t.requests = append(t.requests, e.Request.URL)
	case *network.EventLoadingFinished:
		t.received += int64(e.EncodedDataLength)
	}
}

// Problems is what is in the console since the last call: whatever a page writes there, violations of its
// Content-Security-Policy, and exceptions.
func (t *Tab) Problems() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	problems := t.problems
	t.problems = nil
	return problems
}

// Requests is the URLs that were asked for so far, and how many bytes the answers had on the wire, with their headers.
func (t *Tab) Requests() (urls []string, received int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.requests...), t.received
}

// Do does this within 30 seconds.
func (t *Tab) Do(actions ...chromedp.Action[chromedp.Void]) error {
	// The first call starts the tab, which ends with the context of that call.
	if chromedp.FromContext(t.ctx).Target == nil {
		return chromedp.Do(t.ctx, actions...)
	}
	ctx, cancel := context.WithTimeout(t.ctx, 30*time.Second)
	defer cancel()
	return chromedp.Do(ctx, actions...)
}

// Go goes to a URL and returns once it is loaded.
func (t *Tab) Go(url string) error { return t.Do(chromedp.Navigate(url)) }

// Press presses keys, see package kb of chromedp. A key and its character are one event, as from a keyboard: a page
// that prevents the one prevents the other.
func (t *Tab) Press(keys string) error {
	for _, key := range keys {
		var down *input.DispatchKeyEventParams
		for _, event := range kb.Encode(key) {
			switch event.Type {
			case kb.KeyChar:
				down.Type, down.Text, down.UnmodifiedText = kb.KeyDown, event.Text, event.UnmodifiedText
			case kb.KeyUp:
				if err := t.Do(call(input.DispatchKeyEvent, *down), call(input.DispatchKeyEvent, *event)); err != nil {
					return err
				}
			default:
				down = event
			}
		}
	}
	return nil
}

// Click clicks on the first element of a CSS selector.
func (t *Tab) Click(selector string) error { return t.Do(chromedp.Click(chromedp.CSS(selector))) }

// Without turns JavaScript off.
func (t *Tab) WithoutJavaScript() error {
	return t.Do(call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
}

func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, command, params)
		return err
	})
}

// Eval stores what an expression, or its promise, is on the page.
func (t *Tab) Eval(expression string, value any) error {
	ctx, cancel := context.WithTimeout(t.ctx, 30*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](
		"(async () => JSON.stringify(await ("+expression+")))()", chromedp.EvalAwaitPromise))
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), value)
}

// Await returns once an expression is true on the page.
func (t *Tab) Await(ctx context.Context, expression string) error {
	return process.Await(ctx, 20*time.Millisecond, func(context.Context) error {
		var is bool
		if err := t.Eval("!!("+expression+")", &is); err != nil {
			return err
		}
		if !is {
			var text string
			_ = t.Eval("document.body.innerText", &text) // only for the message
			return fmt.Errorf("not so: %s\nthe page says:\n%.1500s", expression, text)
		}
		return nil
	})
}

// Screenshot is a PNG image of what the tab shows.
func (t *Tab) Screenshot() ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.ctx, 30*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.CaptureScreenshot())
}
