package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// Caller speaks the relay's HTTP API with one token.
type Caller struct {
	Base, Token string
	Client      *http.Client
}

// Answer is a response of the API.
type Answer struct {
	Status int
	Body   []byte
}

// NewClient returns a client that uses no proxy.
func NewClient() *http.Client {
	return &http.Client{Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 8}, Timeout: time.Minute}
}

// Call makes one request.
func (c Caller) Call(method, path string, body any) (Answer, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.Base+path, content)
	if err != nil {
		return Answer{}, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			req.Header.Set("Content-Type", "application/merge-patch+json")
		}
	}
	res, err := c.Client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, b}, err
}

// Must makes a request that must succeed and reads the response into out, unless that is nil.
func (c Caller) Must(t testing.TB, method, path string, body, out any) {
	t.Helper()
	a, err := c.Call(method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.Status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	if out != nil {
		if err := json.Unmarshal(a.Body, out); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, a.Body)
		}
	}
}

// Items reads a whole list.
func Items[T any](c Caller, path string) ([]T, error) {
	var all []T
	after := ""
	for {
		separator := "?"
		if bytes.ContainsRune([]byte(path), '?') {
			separator = "&"
		}
		at := path
		if after != "" {
			at += separator + "after=" + url.QueryEscape(after)
		}
		a, err := c.Call(http.MethodGet, at, nil)
		if err != nil {
			return nil, err
		}
		if a.Status != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %d %s", at, a.Status, a.Body)
		}
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		if err := json.Unmarshal(a.Body, &page); err != nil {
			return nil, fmt.Errorf("GET %s: %w", at, err)
		}
		all = append(all, page.Items...)
		if page.Next == "" || page.Next == after || len(page.Items) == 0 {
			return all, nil
		}
		after = page.Next
	}
}

// Connection is what the tests read of a connection.
type Connection struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Waiting *int   `json:"waiting"`

	GapSuspectedAt time.Time       `json:"gapSuspectedAt"`
	Reconciling    json.RawMessage `json:"reconciling"`
	ReconciledAt   time.Time       `json:"reconciledAt"`
}

// Unreconciled returns what must still be read again of the connection, "" if nothing is.
func (c Connection) Unreconciled() string {
	switch {
	case len(c.Reconciling) > 0:
		return fmt.Sprintf("the orders of connection %s are being read again: %s", c.ID, c.Reconciling)
	case c.GapSuspectedAt.After(c.ReconciledAt):
		return fmt.Sprintf("connection %s: a gap is suspected since %s, its orders were read at %s",
			c.ID, c.GapSuspectedAt, c.ReconciledAt)
	}
	return ""
}

// Callback is what the tests read of a callback.
type Callback struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Health  string `json:"health"`
	Backlog *int   `json:"backlog"`
	Secret  string `json:"secret"`
}
