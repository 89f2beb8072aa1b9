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

// HeaderError is a callback's header that cannot be sent. It contains the header's name, never its
// value.
type HeaderError struct {
	Name   string // as given; empty if the error is about all of them
	Reason string
}

// Error returns the header's name and what is wrong with it.
func (e HeaderError) Error() string {
	if e.Name == "" {
		return e.Reason
	}
	return fmt.Sprintf("header %q: %s", e.Name, e.Reason)
}

// HeaderErrors are all invalid headers, sorted by name.
type HeaderErrors []HeaderError

// Error joins the errors.
func (es HeaderErrors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// CheckHeaders checks the headers that a client wants on its callbacks. Names and values must be
// valid in HTTP (RFC 9110), and no header may replace one that the relay or the connection sets.
// The error is a HeaderErrors.
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

// reserved reports whether a client may not set a header, given in canonical spelling: the headers
// of the signature and the body, those that HTTP reserves for a connection (RFC 9110 section
// 7.6.1), and those that would change how the response is sent.
func reserved(canonical string) bool {
	switch canonical {
	case "Content-Type", "Content-Length", "Content-Encoding", "Content-Range", "User-Agent", "Host", "Idempotency-Key",
		"X-Idempotency-Key", "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate",
		"Proxy-Authorization",
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
