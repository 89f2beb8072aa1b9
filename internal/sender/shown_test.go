package sender_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/sender"
)

// An attempt shows of the response's header what is on the list, within bounds, and no secret.
func TestResponseHeaders(t *testing.T) {
	t.Parallel()
	const token, password = "3f0c6b1e-93d4-4d8e-a6ab-0c5b7d1f2e3a", "aabbccdd-0011-2233-4455-66778899aabb"
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	const date = "Fri, 27 Nov 2026 18:20:32 GMT"
	bearer, basic := sender.Bearer(token), sender.Basic("shop", password)
	many := ""
	for i := range 2000 {
		many += fmt.Sprintf("X-Other-%d: v\r\n", i)
	}
	for name, c := range map[string]struct {
		status, header string
		auth           sender.Auth
		want           string
	}{
		"what is on the list": {
			"200 OK", "Server: nginx\r\nDate: " + date + "\r\nSet-Cookie: a=b\r\nX-Api-Key: k\r\nX-Request-Id: " +
				trace[3:35] + "\r\n", bearer,
			"server: nginx\ndate: " + date + "\nx-request-id: " + trace[3:35] + "\n",
		},
		"a trace, once": {"204 No Content", "traceparent: " + trace + "\r\nTraceParent: 00-11111111\r\n",
			bearer, "traceparent: " + trace + "\n"},
		"a token as a request's":   {"200 OK", "X-Request-Id: " + token + "\r\n", bearer, ""},
		"upper case":               {"200 OK", "X-Request-Id: " + strings.ToUpper(token) + "\r\n", bearer, ""},
		"a part of it":             {"200 OK", "X-Request-Id: 00-" + token[24:] + "\r\n", bearer, ""},
		"an encoded password":      {"200 OK", "X-Request-Id: " + password[24:] + "-00000000\r\n", basic, ""},
		"a token as a server":      {"200 OK", "Server: " + token + "\r\n", bearer, ""},
		"no time":                  {"200 OK", "Date: Fri, 27 Nov 2026 18:20:32 " + token[:3] + "\r\n", bearer, ""},
		"other numbers of success": {"200 OK", "X-Request-Id: Hx7Kd-plain-words\r\n", bearer, ""},
		"other numbers of failure": {"500 No", "X-Request-Id: Hx7Kd-plain-words\r\n", bearer,
			"x-request-id: Hx7Kd-plain-words\n"},
		"a redirect": {"302 Found", "Location: https://new.example/hook\r\n", bearer,
			"location: https://new.example/hook\n"},
		"a redirect with a token": {
			"302 Found", "Location: https://new.example/?t=" + token + "\r\nRetry-After: 30\r\n", bearer,
			"location: [withheld: it may repeat a secret of this callback]\nretry-after: 30\n",
		},
		"control characters": {"500 No", "Server: a\x01b\r\n", bearer, ""},
		"a long value": {"500 No", "Server: " + strings.Repeat("ab ", 100) + "\r\n", bearer,
			"server: " + strings.Repeat("ab ", 100)[:128] + "\n"},
		"many headers": {"500 No", many + "Server: last\r\n", bearer, "server: last\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSender(t, nil)
			address := rawReceiver(t, answering("HTTP/1.1 "+c.status+"\r\n"+c.header+"Content-Length: 0\r\n\r\n"))
			r := request("http://" + address)
			r.Auth = c.auth
			for range 2 { // the second attempt uses the connection again
				if a := s.Send(t.Context(), r); a.Headers != c.want {
					t.Errorf("shown %q, want %q (%+v)", a.Headers, c.want, a.Outcome)
				}
			}
		})
	}
}

// The phases of attempts over a new connection, over the same one again, and over none.
func TestPhases(t *testing.T) {
	t.Parallel()
	done := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	secure, plain := tlsReceiver(t, nil, done), receiver(t, done)
	s := newSender(t, func(c *sender.Config) { c.RootCAs = rootsOf(secure) })
	r := request(secure.URL)
	first := s.Send(t.Context(), r)
	p := first.Phases
	if first.Outcome != sender.Success || p.DNS != 0 || p.Connect <= 0 || p.TLS <= 0 || p.FirstByte <= 0 ||
		p.Connect+p.TLS+p.FirstByte > first.Duration {
		t.Errorf("the first attempt: %+v of %v (%s)", p, first.Duration, first.Error)
	}
	if again := s.Send(t.Context(), r).Phases; again.DNS != 0 || again.Connect != 0 ||
		again.TLS != 0 || again.FirstByte <= 0 {
		t.Errorf("the second attempt: %+v", again)
	}
	secure.Close()
	if a := s.Send(t.Context(), r); a.Outcome == sender.Success || a.Phases.FirstByte != 0 {
		t.Errorf("without a receiver: %+v", a)
	}
	r.URL = strings.Replace(plain.URL, "127.0.0.1", "localhost", 1)
	if p := s.Send(t.Context(), r).Phases; p.DNS <= 0 || p.TLS != 0 {
		t.Errorf("by name: %+v", p)
	}
}
