package e2e

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

// caller speaks the relay's HTTP API with one token.
type caller struct {
	base, token string
	client      *http.Client
}

// answer is what the API answered.
type answer struct {
	status int
	body   []byte
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 8}, Timeout: time.Minute}
}

// call makes one request.
func (c caller) call(method, path string, body any) (answer, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.base+path, content)
	if err != nil {
		return answer{}, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			req.Header.Set("Content-Type", "application/merge-patch+json")
		}
	}
	res, err := c.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, b}, err
}

// must makes a request that has to succeed and reads the answer into out, unless that is nil.
func (c caller) must(t testing.TB, method, path string, body, out any) {
	t.Helper()
	a, err := c.call(method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	if out != nil {
		if err := json.Unmarshal(a.body, out); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
		}
	}
}

// items reads a whole list.
func items[T any](c caller, path string) ([]T, error) {
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
		a, err := c.call(http.MethodGet, at, nil)
		if err != nil {
			return nil, err
		}
		if a.status != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %d %s", at, a.status, a.body)
		}
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		if err := json.Unmarshal(a.body, &page); err != nil {
			return nil, fmt.Errorf("GET %s: %w", at, err)
		}
		all = append(all, page.Items...)
		if page.Next == "" || page.Next == after || len(page.Items) == 0 {
			return all, nil
		}
		after = page.Next
	}
}

// connection and callback are what the tests read of the API's answers.
type connection struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Waiting *int   `json:"waiting"`
}

type callback struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Health  string `json:"health"`
	Backlog *int   `json:"backlog"`
	Secret  string `json:"secret"`
}
