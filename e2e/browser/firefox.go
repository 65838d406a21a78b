package browser

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/net/websocket"

	"metrics-server-prom/e2e/process"
)

// Firefox is a running Firefox with one tab, driven by WebDriver BiDi: https://w3c.github.io/webdriver-bidi/
type Firefox struct {
	process *process.Process
	dir     string
	socket  *websocket.Conn
	tab     string // its browsing context
	last    int    // id of the last command

	// Problems is what was in the console so far, Requests the URLs that were asked for.
	Problems, Requests []string
}

// listening is what Firefox says once it does.
var listening = regexp.MustCompile(`WebDriver BiDi listening on (ws://[^\s]+)`)

// StartFirefox starts a Firefox.
func StartFirefox(ctx context.Context) (*Firefox, error) {
	path, err := find("firefox-esr", "firefox")
	if err != nil {
		return nil, err
	}
	f := &Firefox{}
	if f.dir, err = os.MkdirTemp("", "metrics-server-prom-e2e-firefox-"); err != nil {
		return nil, err
	}
	f.process, err = process.Start(process.Command{Name: "firefox", Path: path, Log: filepath.Join(f.dir, "log"),
		Args: []string{"--headless", "--no-remote", "--profile", f.dir, "--remote-debugging-port=0",
			"--remote-allow-origins=http://127.0.0.1", "about:blank"},
		Env: append(os.Environ(), "HOME="+f.dir)})
	if err != nil {
		os.RemoveAll(f.dir)
		return nil, err
	}
	if err := f.connect(ctx); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w; end of the log:\n%s", err, process.Tail(f.process.Log(), 15))
	}
	return f, nil
}

func (f *Firefox) connect(ctx context.Context) error {
	var url string
	if err := f.process.Await(ctx, func(context.Context) error {
		said := listening.FindStringSubmatch(f.process.Log())
		if said == nil {
			return errors.New("firefox does not listen yet")
		}
		url = said[1]
		return nil
	}); err != nil {
		return err
	}
	var err error
	if f.socket, err = websocket.Dial(url+"/session", "", "http://127.0.0.1"); err != nil {
		return err
	}
	if err := f.do("session.new", object{"capabilities": object{}}, nil); err != nil {
		return err
	}
	if err := f.do("session.subscribe",
		object{"events": []string{"log.entryAdded", "network.beforeRequestSent"}}, nil); err != nil {
		return err
	}
	var tree struct{ Contexts []struct{ Context string } }
	if err := f.do("browsingContext.getTree", object{}, &tree); err != nil {
		return err
	}
	f.tab = tree.Contexts[0].Context
	return nil
}

// object is JSON's.
type object map[string]any

// do sends a command and takes all that comes until its answer.
func (f *Firefox) do(method string, params object, result any) error {
	f.last++
	if err := f.socket.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if err := websocket.JSON.Send(f.socket, object{"id": f.last, "method": method, "params": params}); err != nil {
		return err
	}
	for {
		var message struct {
			ID             int
			Type, Method   string
			Error, Message string
			Result         json.RawMessage
			Params         struct {
				Level, Text, Type string
				Request           struct{ URL string }
			}
		}
		if err := websocket.JSON.Receive(f.socket, &message); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		switch {
		case message.Method == "log.entryAdded":
			f.Problems = append(f.Problems, message.Params.Type+" "+message.Params.Level+": "+message.Params.Text)
		case message.Method == "network.beforeRequestSent":
			f.Requests = append(f.Requests, message.Params.Request.URL)
		case message.ID == f.last && message.Type == "error":
			return fmt.Errorf("%s: %s: %s", method, message.Error, message.Message)
		case message.ID == f.last:
			if result == nil {
				return nil
			}
			return json.Unmarshal(message.Result, result)
		}
	}
}

// Go goes to a URL and returns once it is loaded.
func (f *Firefox) Go(url string) error {
	return f.do("browsingContext.navigate", object{"context": f.tab, "url": url, "wait": "complete"}, nil)
}

// Eval stores what an expression, or its promise, is on the page.
func (f *Firefox) Eval(expression string, value any) error {
	var answer struct {
		Result struct{ Value string }
		Text   json.RawMessage `json:"exceptionDetails"`
	}
	if err := f.do("script.evaluate", object{"target": object{"context": f.tab}, "awaitPromise": true,
		"expression": "(async () => JSON.stringify(await (" + expression + ")))()"}, &answer); err != nil {
		return err
	}
	if answer.Text != nil {
		return fmt.Errorf("%s: %s", expression, answer.Text)
	}
	return json.Unmarshal([]byte(answer.Result.Value), value)
}

// Press presses keys, one after the other; WebDriver has code points for those without a character:
// https://www.w3.org/TR/webdriver2/#keyboard-actions
func (f *Firefox) Press(keys string) error {
	var actions []object
	for _, key := range keys {
		actions = append(actions, object{"type": "keyDown", "value": string(key)},
			object{"type": "keyUp", "value": string(key)})
	}
	return f.do("input.performActions", object{"context": f.tab, "actions": []object{
		{"type": "key", "id": "keyboard", "actions": actions}}}, nil)
}

// Screenshot is a PNG image of what the tab shows.
func (f *Firefox) Screenshot() ([]byte, error) {
	var answer struct{ Data string }
	if err := f.do("browsingContext.captureScreenshot", object{"context": f.tab}, &answer); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(answer.Data)
}

// Close ends it.
func (f *Firefox) Close() {
	if f.socket != nil {
		f.socket.Close()
	}
	f.process.Kill()
	os.RemoveAll(f.dir)
}
