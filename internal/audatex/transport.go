package audatex

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// dialFunc connects to an address, as net.Dialer.DialContext does.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// endpointURL parses the URL of an endpoint.
func endpointURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("must start with https:// (or http:// for a sandbox)")
	case u.Host == "":
		return nil, errors.New("names no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("must have no user, query or fragment")
	}
	return u, nil
}

// checkProxy finds an invalid proxy setting at the start. Otherwise net/http would quote it in the
// error of a call, including a password.
func checkProxy(proxy func(*http.Request) (*url.URL, error), to *url.URL) error {
	if _, err := proxy(&http.Request{URL: to}); err != nil {
		return fmt.Errorf("the environment's proxy for %s (HTTPS_PROXY or HTTP_PROXY) is no URL", to.Host)
	}
	return nil
}

// newTransport returns a transport that takes its proxy from the environment, because calls to the
// vendor may need one.
//
// Without keepAlive each request opens a new connection. That is for what must not be sent twice
// (polls and token refreshes): net/http repeats a GET without notice if a kept connection dies
// before the response, which would lose the first response's notifications unnoticed; and if the
// server has just closed a kept connection, a harmless failure becomes ambiguous. HTTP/2 is off
// there for the same reason. The header of the response is normalised first; see normalizedConn.
//
// Compression is off, so that a cut response still yields every byte that arrived. The vendor is
// asked for that (see identity), because a request that does not mention encodings allows any (RFC 9110,
// section 12.5.3). A response that is encoded nevertheless is decoded by readContent; net/http's
// own decoding has no limits, and cannot handle a cut response.
func newTransport(dial dialFunc, keepAlive bool) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		DisableKeepAlives:      !keepAlive,
		ForceAttemptHTTP2:      keepAlive,
	}
	if !keepAlive {
		t.DialContext, t.DialTLSContext = normalizing(dial), normalizingTLS(dial, t.TLSClientConfig)
		t.ReadBufferSize, t.WriteBufferSize = onceBuffer, onceBuffer
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	return t
}

// identity is the Accept-Encoding of every request: no encoding.
const identity = "identity"

// httpClient returns a client that never follows a redirect: the API has none, and behind one is a
// sign-in or maintenance page.
func httpClient(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
