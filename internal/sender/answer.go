package sender

import (
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/audatex-relay/relay/internal/relay"
)

// MaxRetryAfter is the longest wait that a receiver's Retry-After is believed.
const MaxRetryAfter = 24 * time.Hour

const (
	maxExcerpt  = 256
	excerptRead = 2048 // more than is kept, so that a secret is recognised though it reaches over the end
)

// readBody reads what is left of an answer, as far as its limits go, so that the connection can be used again; of an
// answer that is not 2xx it gives the beginning. How reading ends does not matter.
func readBody(resp *http.Response, r *Request) (excerpt string) {
	defer resp.Body.Close()
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		return ""
	}
	rest := io.LimitReader(resp.Body, maxBody)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		head := make([]byte, excerptRead)
		n, _ := io.ReadFull(rest, head)
		excerpt = printable(redact(string(head[:n]), r))
	}
	_, _ = io.Copy(io.Discard, rest)
	return excerpt
}

// redact takes out what a receiver may echo of the request (frameworks print the headers of a failed request in their
// error pages): an attempt is stored in the clear and shown.
func redact(text string, r *Request) string {
	var secrets []string
	add := func(s string) {
		if len(s) >= 4 { // shorter ones would blank half the text and cannot be much of a secret
			secrets = append(secrets, s, "[redacted]")
		}
	}
	authorization := func(value string) {
		add(value)
		scheme, credentials, ok := strings.Cut(value, " ")
		if !ok {
			return
		}
		add(credentials)
		if strings.EqualFold(scheme, "basic") {
			if plain, err := base64.StdEncoding.DecodeString(credentials); err == nil {
				_, password, _ := strings.Cut(string(plain), ":")
				add(string(plain))
				add(password)
			}
		}
	}
	if !r.Auth.IsZero() {
		authorization(r.Auth.value())
	}
	for name, value := range r.Headers {
		if http.CanonicalHeaderKey(name) == "Authorization" {
			authorization(value)
		} else {
			add(value)
		}
	}
	for _, s := range relay.URLSecrets(r.URL) {
		add(s)
	}
	for _, s := range r.Secrets {
		if text := s.Reveal(); text != "" {
			add(text)
			add(strings.TrimPrefix(text, "whsec_"))
		}
	}
	if len(secrets) == 0 {
		return text
	}
	return strings.NewReplacer(secrets...).Replace(text)
}

// printable keeps the first 256 bytes of a text on one line: anything that is no printable character is a space, runs
// of spaces are one.
func printable(text string) string {
	var b strings.Builder
	space := false
	for _, c := range text {
		if c == unicode.ReplacementChar || !unicode.IsPrint(c) || unicode.IsSpace(c) {
			space = b.Len() > 0
			continue
		}
		s := string(c)
		if space {
			s = " " + s
		}
		if b.Len()+len(s) > maxExcerpt {
			break
		}
		b.WriteString(s)
		space = false
	}
	return b.String()
}

// retryAfter reads the header Retry-After (RFC 9110 section 10.2.3): seconds, or a date. A date is taken against the
// answer's own Date if it has one, so that a receiver's wrong clock does no harm; now is ours.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) { // digits only: too large a number is the only error
			return MaxRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter), true
}
