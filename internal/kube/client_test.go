package kube

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

type answerFunc func(*http.Request) *http.Response

func (a answerFunc) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

func TestClientAsksForProtobufAndUnderstandsAStatus(t *testing.T) {
	server := answerFunc(func(r *http.Request) *http.Response {
		accept := r.Header.Get("Accept")
		if !strings.HasPrefix(accept, Protobuf) || !strings.Contains(accept, "application/json") {
			t.Errorf("Accept: %s, want protobuf before JSON", accept)
		}
		body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}`
		return &http.Response{StatusCode: http.StatusGone, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(body)), Request: r}
	})
	c, err := client(&rest.Config{Host: "http://cluster"}, Core, &transport{client: &http.Client{Transport: server}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Get().Resource("pods").MaxRetries(0).Stream(t.Context())
	if f := Explain("watch pods", err); !strings.Contains(f.Text, "410 Gone: too old") {
		t.Error(f.Text)
	}
}
