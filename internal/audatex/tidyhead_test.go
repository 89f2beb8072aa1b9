package audatex

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// oddHeads are headers that net/http refuses, each with the body that follows.
func oddHeads(body string) map[string]string {
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	squeezed := string(gzipped(body))
	return map[string]string{
		"a line without a colon": "HTTP/1.1 200 OK\r\nnonsense\r\n" + length + "\r\n" + body,
		"a line without a name":  "HTTP/1.1 200 OK\r\n: x\r\n" + length + "\r\n" + body,
		"an empty length":        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n" + body,
		"a negative length":      "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + body,
		"two lengths":            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + length + "\r\n" + body,
		"a length and chunks": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		"a control character": "HTTP/1.1 200 OK\r\nX: a\x01b\r\n" + length + "\r\n" + body,
		"many cookies": "HTTP/1.1 200 OK\r\n" +
			strings.Repeat("Set-Cookie: "+strings.Repeat("a", 4000)+"\r\n", 40) + length + "\r\n" + body,
		"a long line": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 200_000) + "\r\n" + length +
			"\r\n" + body,
		"encoded on its way": "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(squeezed), squeezed),
		"a coding that is none":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n" + body,
		"a version in lower case": "http/1.1 200 ok\r\n" + length + "\r\n" + body,
		"an empty line before":    "\r\nHTTP/1.1 200 OK\r\n" + length + "\r\n" + body,
		"an odd interim answer": "HTTP/1.1 103 Early\r\nnonsense\r\n\r\nHTTP/1.1 200 OK\r\nnonsense\r\n" + length +
			"\r\n" + body,
		"a name with a blank": "HTTP/1.1 200 OK\r\nContent-Length : " +
			fmt.Sprint(len(body)) + "\r\n\r\n" + body,
		"LF alone, and a long blank": "HTTP/1.1  200  OK\nX\n" + length + "\n" + body,
	}
}

func TestAnAnswerIsReadWhateverElseItsHeaderHolds(t *testing.T) {
	t.Parallel()
	for name, raw := range oddHeads(encodedPage) {
		c := vendor(t, Config{}, cut(raw))
		page, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		if err != nil || string(page.Body) != encodedPage || page.Truncated {
			t.Errorf("%s: page %q, truncated %v, %v", name, page.Body, page.Truncated, err)
		}
	}
	for name, raw := range oddHeads(`[{"PartsOrderId":"` + testOrder + `"}]`) { // over a kept connection
		c := vendor(t, Config{}, cut(raw))
		if order, err := c.Order(t.Context(), testToken, testOrder, nil); err != nil || order.ID != testOrder {
			t.Errorf("%s: order %q, %v", name, order.JSON, err)
		}
	}
	for name, raw := range oddHeads(`{"access_token":"access-1","refresh_token":"refresh-1"}`) {
		server := httptest.NewServer(cut(raw))
		cfg := TokensConfig{TokenURL: server.URL, Timeout: defaultTimeout,
			Budget: NewBudget(0), Metrics: NewMetrics(nil)}
		m := &Tokens{cfg: cfg, log: quiet, http: httpClient(newTransport(nil, false))}
		if got, err := m.token(t.Context(), url.Values{}); err != nil || got.refresh.Reveal() != "refresh-1" {
			t.Errorf("%s: refresh token %q, %v", name, got.refresh.Reveal(), err)
		}
		server.Close()
	}
}

func TestAnAnswerByTLSIsTidied(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(cut("HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok"))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	get := func(config *tls.Config) (*http.Response, error) {
		dial := normalizingTLS((&net.Dialer{}).DialContext, config)
		client := &http.Client{Transport: &http.Transport{DialTLSContext: dial, DisableKeepAlives: true}}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		return client.Do(req)
	}
	res, err := get(&tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "ok" {
		t.Errorf("body %q, %v", body, err)
	}
	res, err = get(&tls.Config{})
	if err == nil {
		res.Body.Close()
	}
	if unknown := (x509.UnknownAuthorityError{}); !errors.As(err, &unknown) {
		t.Errorf("a certificate of nobody: %v", err)
	}
}

// What is no HTTP passes as it is: a proxy by SOCKS is spoken to before there is any.
func TestOtherProtocolsAreNotTidied(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]string{
		"\x05\x00":                              "\x05\x00",
		"\r\n\r\n\x05":                          "\x05",
		"<html>":                                "<html>",
		"HTTP/1.1 200 OK\r\nX":                  "HTTP/1.1 200 OK\r\nX",
		"HTTP/1.1 20 OK\r\n\r\nHTTP/1.1 200 OK": "HTTP/1.1 20 OK\r\n\r\nHTTP/1.1 200 OK",
		"HTTP/1.1 204 No\r\nA: b\r\nnonsense\r\n\r\nrest": "HTTP/1.1 204\r\nA: b\r\nConnection: close\r\n\r\nrest",
		"": "",
	} {
		far, near := net.Pipe()
		go func() {
			_, _ = io.WriteString(far, sent)
			_ = far.Close()
		}()
		conn, _ := normalizing(func(context.Context, string, string) (net.Conn, error) { return near, nil })(
			t.Context(), "", "")
		if got, err := io.ReadAll(conn); err != nil || string(got) != want {
			t.Errorf("%q came as %q, %v", sent, got, err)
		}
	}
}

// FuzzTidyHead: what is passed on is bounded, and net/http takes it.
func FuzzTidyHead(f *testing.F) {
	for _, raw := range oddHeads("[]") {
		f.Add([]byte(raw[:min(len(raw), 2000)]))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		lines := bytes.SplitAfter(raw, []byte("\n"))
		head, status := tidyHead(lines)
		if head == nil {
			return
		}
		if len(head) > maxHeadKept+2*len(raw)+100 || status < 100 || status > 999 {
			t.Fatalf("%d bytes out of %d, status %d", len(head), len(raw), status)
		}
		if status < 200 {
			return
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
		if err != nil || res.StatusCode != status {
			t.Errorf("%q became %q: %v", raw, head, err)
		}
	})
}
