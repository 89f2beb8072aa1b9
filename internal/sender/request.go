package sender

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/signature"
)

// DefaultContentType is the body's type when a Request names none.
const DefaultContentType = "application/json"

// maxResends is how often one attempt may go out again after a reused connection turned out to be dead. Unlimited, as
// net/http has it, a receiver that hangs up on an event would get it once for every idle connection it has.
const maxResends = 2

// Request is one attempt to make. It holds secrets, so it prints as no more than the event's id.
type Request struct {
	Callback    string            // whose attempt it is; a kept connection serves this callback only
	URL         string            // absolute, http or https; see CheckURL
	EventID     string            // webhook-id: the same for every attempt of the event
	Body        []byte            // the event's bytes; not changed, and not kept beyond the attempt
	ContentType string            // DefaultContentType when empty
	Headers     map[string]string // of the callback; those that CheckHeaders refuses are left out
	Auth        Auth              // the Authorization header; goes before one in Headers
	Secrets     []signature.Secret
	Timeout     time.Duration // for the whole attempt; DefaultTimeout when zero
}

// String names the event only: the URL too may carry a token.
func (r Request) String() string { return "callback request of event " + r.EventID }

// Format writes String for every verb.
func (r Request) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, r.String()) }

// LogValue names the event only.
func (r Request) LogValue() slog.Value { return slog.StringValue(r.String()) }

// Auth is the value of an Authorization header. The zero value is none. It shows itself to no formatter, logger or
// encoder.
type Auth struct{ value func() string } // a function, as fmt looks into everything else (see signature.Secret)

// Bearer is the authorization by a bearer token (RFC 6750).
func Bearer(token string) Auth {
	return Auth{func() string { return "Bearer " + token }}
}

// Basic is the authorization by user name and password (RFC 7617).
func Basic(user, password string) Auth {
	encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return Auth{func() string { return "Basic " + encoded }}
}

// IsZero reports whether there is no authorization.
func (a Auth) IsZero() bool { return a.value == nil }

// String is always "[redacted]".
func (Auth) String() string { return "[redacted]" }

// Format writes "[redacted]" for every verb.
func (Auth) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, "[redacted]") }

// LogValue is always "[redacted]".
func (Auth) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText refuses: what is stored of an authorization is encrypted by whoever stores it.
func (Auth) MarshalText() ([]byte, error) {
	return nil, errors.New("an authorization is not encoded as text")
}

// request builds the HTTP request by hand. http.NewRequest would parse the URL once more and build the header value
// by value.
func (s *Sender) request(ctx context.Context, target *url.URL, r *Request, at time.Time, sign string, f *flight) *http.Request {
	contentType := r.ContentType
	if contentType == "" {
		contentType = DefaultContentType
	}
	h := make(http.Header, 8+len(r.Headers))
	for name, value := range r.Headers {
		if canonical := http.CanonicalHeaderKey(name); !reserved(canonical) {
			h[canonical] = []string{value}
		}
	}
	values := [...]string{contentType, s.userAgent, r.EventID, strconv.FormatInt(at.Unix(), 10), sign, ""}
	h["Content-Type"] = values[0:1:1]
	h["User-Agent"] = values[1:2:2]
	h[signature.HeaderID] = values[2:3:3]
	h[signature.HeaderTimestamp] = values[3:4:4]
	h[signature.HeaderSignature] = values[4:5:5]
	if !r.Auth.IsZero() {
		values[5] = r.Auth.value()
		h["Authorization"] = values[5:6:6]
	}
	// Present but empty: net/http takes it as word that the request may be repeated, and does not send it.
	h["Idempotency-Key"] = []string{}
	req := &http.Request{
		Method:        http.MethodPost,
		URL:           target,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        h,
		Host:          target.Host,
		ContentLength: int64(len(r.Body)),
		Body:          newBody(r.Body),
		GetBody: func() (io.ReadCloser, error) {
			if f.resends == 0 {
				return nil, errHungUp
			}
			f.resends--
			return newBody(r.Body), nil
		},
	}
	return req.WithContext(ctx)
}

// newBody wraps the bytes as net/http wants them: it knows this pair of types to be in memory, and writes the header
// and the body in one go. For any other reader it sends the header by itself first and copies through a buffer of its own.
func newBody(b []byte) io.ReadCloser {
	if len(b) == 0 {
		return http.NoBody
	}
	return io.NopCloser(bytes.NewReader(b))
}
