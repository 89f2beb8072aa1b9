package sender

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const (
	maxHeaders     = 32
	maxHeaderName  = 128
	maxHeaderValue = 4096
)

// HeaderError is one header of a callback that cannot be sent. It holds the header's name, never its value.
type HeaderError struct {
	Name   string // as given; empty when the trouble is with all of them
	Reason string
}

// Error names the header and says what is wrong.
func (e HeaderError) Error() string {
	if e.Name == "" {
		return e.Reason
	}
	return fmt.Sprintf("header %q: %s", e.Name, e.Reason)
}

// HeaderErrors are all the headers that are wrong, by name.
type HeaderErrors []HeaderError

// Error joins them.
func (es HeaderErrors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// CheckHeaders judges the headers a client wants on its callbacks: names and values must be such as HTTP allows
// (RFC 9110), and none may stand in for what the relay or the connection says itself. The error is a HeaderErrors.
func CheckHeaders(headers map[string]string) error {
	var errs HeaderErrors
	if len(headers) > maxHeaders {
		errs = append(errs, HeaderError{Reason: fmt.Sprintf("there may be at most %d headers", maxHeaders)})
	}
	spelled := make(map[string]string, len(headers))
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		reason := checkHeader(name, canonical, headers[name])
		if other, ok := spelled[canonical]; ok && reason == "" {
			reason = fmt.Sprintf("is the same header as %q", other)
		}
		if reason != "" {
			errs = append(errs, HeaderError{Name: name, Reason: reason})
		}
		spelled[canonical] = name
	}
	if errs == nil {
		return nil
	}
	return errs
}

func checkHeader(name, canonical, value string) string {
	switch {
	case name == "":
		return "a header needs a name"
	case len(name) > maxHeaderName:
		return fmt.Sprintf("the name is longer than %d characters", maxHeaderName)
	case !isToken(name):
		return "the name may hold letters, digits and !#$%&'*+-.^_`|~ only"
	case reserved(canonical):
		return "is set by the relay or belongs to the connection"
	case len(value) > maxHeaderValue:
		return fmt.Sprintf("the value is longer than %d bytes", maxHeaderValue)
	case strings.TrimSpace(value) != value:
		return "the value begins or ends with white space"
	case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
		return "the value holds a control character"
	}
	return ""
}

// reserved tells of headers, in canonical spelling, that a client cannot set: those of the signature and of the body,
// those that HTTP keeps for one connection (RFC 9110 section 7.6.1), and those that would change how the answer comes.
func reserved(canonical string) bool {
	switch canonical {
	case "Content-Type", "Content-Length", "Content-Encoding", "Content-Range", "User-Agent", "Host", "Idempotency-Key", "X-Idempotency-Key",
		"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Expect", "Accept-Encoding":
		return true
	}
	return strings.HasPrefix(canonical, "Webhook-")
}

func isToken[T string | []byte](s T) bool {
	for i := range len(s) {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return true
}

var tokenChars = func() (chars [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" {
		chars[c] = true
	}
	return chars
}()
