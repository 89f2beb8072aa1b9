package sender_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sender"
)

const (
	clientSecret = "s3cr3t/of+the=client"
	firstToken   = "first.access.token-0123456789"
)

// tokenServer serves tokens by TLS. It counts the requests, and checks how the client
// authenticates.
type tokenServer struct {
	*httptest.Server
	asked atomic.Int32
	forms chan url.Values // what was asked for, as far as there is room
}

func newTokenServer(t *testing.T, answer func(n int32, w http.ResponseWriter, r *http.Request)) *tokenServer {
	s := &tokenServer{forms: make(chan url.Values, 16)}
	s.Server = tlsReceiver(t, nil, func(w http.ResponseWriter, r *http.Request) {
		n := s.asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		if id, secret, ok := r.BasicAuth(); ok {
			id, _ = url.QueryUnescape(id)
			secret, _ = url.QueryUnescape(secret)
			form.Set("basic", id+" "+secret)
		}
		select {
		case s.forms <- form:
		default:
		}
		answer(n, w, r)
	})
	return s
}

func (s *tokenServer) credentials() sender.ClientCredentials {
	return sender.ClientCredentials{TokenURL: s.URL + "/token", ID: "relay", Secret: clientSecret}
}

// give responds with a token that lives for an hour.
func give(w http.ResponseWriter, token string) {
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
}

// trusting makes a Sender that trusts TLS servers.
func trusting(t *testing.T, servers ...*httptest.Server) *sender.Sender {
	pool := x509.NewCertPool()
	for _, s := range servers {
		pool.AddCert(s.Certificate())
	}
	return newSender(t, func(c *sender.Config) { c.RootCAs = pool })
}

func TestAccessTokenIsGotOnceAndSent(t *testing.T) {
	t.Parallel()
	auth := newTokenServer(t, func(_ int32, w http.ResponseWriter, _ *http.Request) { give(w, firstToken) })
	sent := make(chan string, 100)
	bms := tlsReceiver(t, nil, func(_ http.ResponseWriter, r *http.Request) { sent <- r.Header.Get("Authorization") })
	s := trusting(t, auth.Server, bms)

	credentials := auth.credentials()
	credentials.Scope, credentials.Audience = "orders.write orders.read", "https://bms.example"
	r := request(bms.URL)
	r.Auth = sender.WithToken(credentials)
	done := make(chan sender.Attempt)
	for range 20 {
		go func() { done <- s.Send(t.Context(), r) }()
	}
	for range 20 {
		if a := <-done; a.Outcome != sender.Success {
			t.Errorf("%+v", a)
		}
		if got := <-sent; got != "Bearer "+firstToken {
			t.Errorf("sent %q", got)
		}
	}
	if n := auth.asked.Load(); n != 1 {
		t.Errorf("%d requests for one token", n)
	}
	form := <-auth.forms
	if form.Get("grant_type") != "client_credentials" || form.Get("scope") != credentials.Scope ||
		form.Get("audience") != credentials.Audience || form.Get("basic") != "relay "+clientSecret ||
		form.Has("client_secret") {
		t.Errorf("asked with %v", form)
	}

	credentials.InForm = true
	r.Auth = sender.WithToken(credentials)
	if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
		t.Errorf("%+v", a)
	}
	if form := <-auth.forms; form.Get("client_id") != "relay" ||
		form.Get("client_secret") != clientSecret || form.Has("basic") {
		t.Errorf("asked with %v", form)
	}
	for _, printed := range []string{fmt.Sprintf("%+v %#v", credentials, r), fmt.Sprint(r.Auth)} {
		if strings.Contains(printed, clientSecret) {
			t.Errorf("printed %s", printed)
		}
	}
}

// Whatever a token URL does is a failed attempt with an outcome of its own, in the relay's words,
// and the receiver gets nothing.
func TestTokenURLThatFails(t *testing.T) {
	t.Parallel()
	elsewhere := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	release := make(chan struct{})
	for _, c := range []struct {
		name, want string
		answer     func(http.ResponseWriter, *http.Request)
	}{
		{"refuses", "answered 401 (invalid_client)", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"wrong secret %s","error_uri":%q}`,
				clientSecret, r.Header.Get("Authorization"))
		}},
		{"names an error with 200", "answered 200 (invalid_scope)", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"error":"invalid_scope"}`)
		}},
		{"names its own error", "answered 400", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":%q}`, clientSecret)
		}},
		{"redirects", "answered 307: redirects are not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}},
		{"redirects with a body", "answered 302: redirects are not followed",
			func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+"/"+clientSecret, http.StatusFound)
			}},
		{"garbage", "its answer holds no access token", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<html>"+clientSecret+"</html>")
		}},
		{"nothing", "its answer holds no access token", func(http.ResponseWriter, *http.Request) {}},
		{"large", "its answer is larger than 64 KiB", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`)
			for range 10 << 20 / 1024 {
				if _, err := io.WriteString(w, strings.Repeat("a", 1024)); err != nil {
					return
				}
			}
		}},
		{"announced as large", "its answer is larger than 64 KiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10485760")
			_, _ = w.Write(make([]byte, 1000))
		}},
		{"breaks off", "its answer broke off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"access_token":"abcdefgh"}`)
		}},
		{"token with a line break", "its token holds what a header cannot",
			func(w http.ResponseWriter, _ *http.Request) {
				give(w, "abc\r\nX-Injected: 1")
			}},
		{"long token", "its token is longer than 8 KiB", func(w http.ResponseWriter, _ *http.Request) {
			give(w, strings.Repeat("a", 9000))
		}},
		{"another type of token", "its token is not of the type Bearer", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"abcdefgh","token_type":"mac"}`)
		}},
		{"busy", "answered 503", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusServiceUnavailable)
		}},
		{"hangs", "no answer within 500ms", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			auth := newTokenServer(t, func(_ int32, w http.ResponseWriter, r *http.Request) { c.answer(w, r) })
			bms := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("the receiver was sent something") })
			s := trusting(t, auth.Server)
			r := request(bms.URL)
			r.Auth = sender.WithToken(auth.credentials())
			if c.name == "hangs" {
				r.Timeout = 500 * time.Millisecond
			}
			a := s.Send(t.Context(), r)
			if a.Outcome != sender.TokenFailed || a.Error != "the token URL: "+c.want ||
				a.Status != 0 || a.Excerpt != "" {
				t.Errorf("%+v", a)
			}
			if wait := 120 * time.Second; (c.name == "busy") != (a.RetryAfter == wait) {
				t.Errorf("to wait for %s", a.RetryAfter)
			}
			if n := auth.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			s.Close()
		})
	}
	t.Cleanup(func() { close(release) })
}

// A token URL is judged as a callback's URL is, and its certificate as a receiver's.
func TestTokenURLGoesByTheRulesForCallbacks(t *testing.T) {
	t.Parallel()
	auth := newTokenServer(t, func(_ int32, w http.ResponseWriter, _ *http.Request) { give(w, firstToken) })
	bms := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("the receiver was sent something") })
	for _, c := range []struct {
		name, want string
		change     func(*sender.Config, *sender.ClientCredentials)
	}{
		{"address", "callbacks may not reach a loopback address", func(c *sender.Config, _ *sender.ClientCredentials) {
			c.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}},
		{"metadata", "callbacks may not reach a cloud's metadata address",
			func(_ *sender.Config, c *sender.ClientCredentials) {
				c.TokenURL = "http://169.254.169.254/latest/api/token"
			}},
		{"unknown authority", "the certificate is from an unknown authority",
			func(c *sender.Config, _ *sender.ClientCredentials) {
				c.RootCAs = x509.NewCertPool()
			}},
		{"no TLS", "its server does not speak TLS on this port", func(_ *sender.Config, c *sender.ClientCredentials) {
			c.TokenURL = strings.Replace(bms.URL, "http:", "https:", 1)
		}},
		{"nobody", "its server: connection refused", func(_ *sender.Config, c *sender.ClientCredentials) {
			c.TokenURL = "http://127.0.0.1:1/"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			credentials := auth.credentials()
			s := newSender(t, func(config *sender.Config) {
				config.RootCAs = rootsOf(auth.Server)
				c.change(config, &credentials)
			})
			r := request(bms.URL)
			r.Auth = sender.WithToken(credentials)
			if a := s.Send(t.Context(), r); a.Outcome != sender.TokenFailed || a.Error != "the token URL: "+c.want {
				t.Errorf("%+v", a)
			}
		})
	}
}

// Through the operator's proxy as deliveries are: by a tunnel to https, by its whole URL to http.
func TestTokenURLThroughTheProxy(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the proxy's password was passed on")
		}
		if r.URL.Path == "/token" {
			asked.Add(1)
			give(w, firstToken)
		} else if r.Header.Get("Authorization") != "Bearer "+firstToken {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	plain, secure := receiver(t, answer), tlsReceiver(t, nil, answer)
	proxy, connects, forwards := connectProxy(t, secure.Listener.Addr().String(), plain.Listener.Addr().String())
	s := newSender(t, func(c *sender.Config) { c.RootCAs, c.Proxy = rootsOf(secure), proxy })
	for _, to := range []string{plain.URL, secure.URL} {
		r := request(plain.URL)
		r.Callback = to // the double of a proxy takes one request on a connection
		r.Auth = sender.WithToken(sender.ClientCredentials{TokenURL: to + "/token", ID: "relay", Secret: clientSecret})
		if a := s.Send(t.Context(), r); a.Outcome != sender.Success {
			t.Errorf("%+v", a)
		}
	}
	if asked.Load() != 2 || connects.Load() != 1 || forwards.Load() != 3 {
		t.Errorf("%d requests for tokens, %d tunnels and %d requests through the proxy",
			asked.Load(), connects.Load(), forwards.Load())
	}
}
