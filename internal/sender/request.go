package sender

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/signature"
)

// DefaultContentType is the body's type when a Request names none.
const DefaultContentType = "application/json"

// Request is one attempt to be made. It holds secrets, so it prints only the event's id.
type Request struct {
	Callback    string             // the callback's id; a kept connection serves this callback only
	URL         string             // absolute, http or https; see CheckURL
	Target      *url.URL           // the same from ParseURL, which need not be called for each attempt then; may be nil
	EventID     string             // webhook-id: the same for every attempt of the event
	Replay      string             // webhook-replay: the replay that sends the event again; empty in a first delivery
	Body        []byte             // the event's bytes; not changed, and not kept beyond the attempt
	ContentType string             // DefaultContentType when empty
	Headers     map[string]string  // the callback's own; those that CheckHeaders refuses are left out
	Auth        Auth               // the Authorization header; replaces one in Headers
	Secrets     []signature.Secret // not changed
	Inspect     *Inspection        // of a test: filled in. The attempt then makes a connection of its own
	Timeout     time.Duration      // for the whole attempt, with getting a token; DefaultTimeout when zero
}

func (r *Request) timeout() time.Duration {
	if r.Timeout <= 0 {
		return DefaultTimeout
	}
	return r.Timeout
}

// headerReplay shows receivers that an event is sent again because somebody asked for it.
const headerReplay = "Webhook-Replay"

// String names only the event, because the URL may contain a token, too.
func (r Request) String() string { return "callback request of event " + r.EventID }

// Format writes String for every verb.
func (r Request) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, r.String()) }

// LogValue names only the event.
func (r Request) LogValue() slog.Value { return slog.StringValue(r.String()) }

// Auth is the value of an Authorization header, or how to get it. The zero value means none. No
// formatter, logger or encoder can print it.
type Auth struct { // functions, because fmt prints everything else (see signature.Secret)
	value       func() string
	credentials func() *ClientCredentials // value is set for each attempt
}

// Bearer returns the authorization with a bearer token (RFC 6750).
func Bearer(token string) Auth {
	return Auth{value: func() string { return "Bearer " + token }}
}

// Basic returns the authorization with user name and password (RFC 7617).
func Basic(user, password string) Auth {
	encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return Auth{value: func() string { return "Basic " + encoded }}
}

// IsZero reports whether there is no authorization.
func (a Auth) IsZero() bool { return a.value == nil && a.credentials == nil }

// String is always "[redacted]".
func (Auth) String() string { return "[redacted]" }

// Format writes "[redacted]" for every verb.
func (Auth) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, "[redacted]") }

// LogValue is always "[redacted]".
func (Auth) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText always fails: an authorization must be encrypted before it is stored.
func (Auth) MarshalText() ([]byte, error) {
	return nil, errors.New("an authorization is not encoded as text")
}

// appendHead appends the request line and the header of an attempt, without the line that ends it.
// It returns false if HTTP does not allow something in it.
func (s *Sender) appendHead(b []byte, target *url.URL, r *Request, at time.Time, sign string) (_ []byte, ok bool) {
	b, ok = s.appendStart(b, target)
	contentType := r.ContentType
	if contentType == "" {
		contentType = DefaultContentType
	}
	b, ok = appendField(b, ok, "Content-Type", contentType)
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(r.Body)), 10)
	b = append(b, "\r\n"+signature.HeaderTimestamp+": "...)
	b = strconv.AppendInt(b, at.Unix(), 10)
	b = append(b, "\r\n"...)
	b, ok = appendField(b, ok, signature.HeaderID, r.EventID)
	if r.Replay != "" {
		b, ok = appendField(b, ok, headerReplay, r.Replay)
	}
	b, ok = appendField(b, ok, signature.HeaderSignature, sign)
	if !r.Auth.IsZero() {
		b, ok = appendField(b, ok, "Authorization", r.Auth.value())
	}
	for name, value := range r.Headers {
		canonical := http.CanonicalHeaderKey(name)
		if reserved(canonical) || canonical == "Authorization" && !r.Auth.IsZero() {
			continue
		}
		b, ok = appendField(b, ok && name != "" && isToken(name), canonical, value)
	}
	if s.throughProxy(target) && s.proxyAuthorization != "" {
		b, ok = appendField(b, ok, "Proxy-Authorization", s.proxyAuthorization)
	}
	return b, ok
}

// appendStart appends the request line, and the first fields.
func (s *Sender) appendStart(b []byte, target *url.URL) (_ []byte, ok bool) {
	to, host := target.RequestURI(), hostHeader(target)
	b = append(b, "POST "...)
	if s.throughProxy(target) {
		b = append(b, "http://"...)
		b = append(b, host...)
	}
	b = append(b, to...)
	b = append(b, " HTTP/1.1\r\n"...)
	b, ok = appendField(b, visible(to) && visible(host), "Host", host)
	return appendField(b, ok, "User-Agent", s.userAgent)
}

// throughProxy reports whether requests to the target are sent to the proxy itself, and not through
// a tunnel.
func (s *Sender) throughProxy(target *url.URL) bool {
	return s.dialer.proxy != nil && target.Scheme == "http"
}

func appendField(b []byte, ok bool, name, value string) ([]byte, bool) {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			ok = false
		}
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...), ok
}

// hostHeader returns the host as it is sent. The zone of an address has a meaning on this machine
// only.
func hostHeader(u *url.URL) string {
	host := u.Host
	if zone := strings.IndexByte(host, '%'); zone >= 0 {
		if end := strings.IndexByte(host, ']'); end > zone {
			host = host[:zone] + host[end:]
		}
	}
	return host
}

// visible reports whether s can be a part of the request line: with a space or a control character
// in it, it would be read as two parts.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}
