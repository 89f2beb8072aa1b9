package sender

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
)

// Of a response's header an attempt shows what helps to find the request at the receiver, and to
// understand the response: those of shownHeaders, each at most once.
const (
	maxShown      = 12  // headers
	maxShownValue = 128 // bytes of each; what follows is cut off
	maxShownBytes = 768 // of all together
)

// showing is when a header may be shown, as its value may repeat a secret.
type showing int

const (
	never   showing = iota
	steady          // the same in most responses: searched for secrets once for each connection
	dated           // a time or a number, shown if it has that form
	traced          // names the request. After a success it is shown only if it is a number, without a search
	failing         // shown only after a failure
)

// shownHeaders are the headers that are shown.
var shownHeaders = map[string]showing{
	"content-type": steady, "server": steady, "via": steady,
	"date": dated, "retry-after": dated,
	"x-request-id": traced, "request-id": traced, "x-correlation-id": traced, "correlation-id": traced,
	"traceparent": traced, "x-amzn-trace-id": traced, "x-amzn-requestid": traced, "x-amz-cf-id": traced,
	"cf-ray": traced, "x-ms-request-id": traced, "x-azure-ref": traced, "x-cloud-trace-context": traced,
	"location": failing, "www-authenticate": failing, "allow": failing,
}

const withheldHeader = "[withheld: it may repeat a secret of this callback]"

// shown collects the headers to be shown: lines of a name in lower case, ": " and a value.
type shown struct {
	lines []byte
	count int
	room  [maxShownBytes]byte
}

func (s *shown) reset() { s.lines, s.count = s.room[:0], 0 }

// note takes a header if it is one of those that are shown.
func (s *shown) note(name, value []byte) {
	var lower [len("x-cloud-trace-context")]byte
	if s.count == maxShown || len(name) > len(lower) || len(value) == 0 {
		return
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		lower[i] = c
	}
	name = lower[:len(name)]
	value = value[:min(len(value), maxShownValue)]
	if shownHeaders[string(name)] == never || !isVisible(value) || s.holds(name) ||
		len(s.lines)+len(name)+len(": \n")+len(value) > len(s.room) {
		return
	}
	s.lines = append(s.lines, name...)
	s.lines = append(s.lines, ": "...)
	s.lines = append(s.lines, value...)
	s.lines = append(s.lines, '\n')
	s.count++
}

// holds reports whether a header has been taken.
func (s *shown) holds(name []byte) bool {
	for rest := s.lines; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		if bytes.HasPrefix(line, name) && line[len(name)] == ':' {
			return true
		}
		rest = after
	}
	return false
}

// afterSuccess keeps those headers that cannot repeat a secret, or do not. It is done for every
// attempt, so it must cost little: what c has sent before is not searched again.
func (s *shown) afterSuccess(x *exchange, r *Request, c *conn, secrets func() needles) string {
	steadies := [...]string{"content-type", "server", "via"}
	kept := s.lines[:0]
	for rest := s.lines; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		name, value, _ := bytes.Cut(line, []byte(": "))
		keep := false
		switch shownHeaders[string(name)] {
		case dated:
			keep = isDate(value)
		case traced:
			keep = isTrace(value) && !r.repeats(value, x.request[:x.head])
		case never, failing:
		case steady:
			for i, of := range steadies {
				if string(name) == of {
					keep = c.searched[i] == string(value)
					if !keep && !secrets().in(string(value), len(value) == maxShownValue) {
						keep, c.searched[i] = true, string(value)
					}
				}
			}
		}
		if keep {
			kept = append(append(kept, line...), '\n') // it stands before rest, so nothing unread is overwritten
		}
		rest = after
	}
	if c.shown != string(kept) { // most responses have the same
		c.shown = string(kept)
	}
	return c.shown
}

// afterFailure withholds the values that may repeat a secret.
func (s *shown) afterFailure(secrets func() needles) string {
	if len(s.lines) == 0 {
		return ""
	}
	var searched needles
	var b strings.Builder
	for line := range strings.Lines(string(s.lines)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if shownHeaders[name] != dated || !isDate([]byte(value)) {
			if searched == nil {
				searched = secrets()
			}
			if searched.in(value, len(value) == maxShownValue) {
				value = withheldHeader
			}
		}
		b.WriteString(name + ": " + value + "\n")
	}
	return b.String()
}

// isDate reports whether a value is a time of HTTP, or a short number.
func isDate(value []byte) bool {
	if number, rest := digits(value); len(rest) == 0 {
		return len(number) > 0 && len(number) <= 10
	}
	if len(value) != len(http.TimeFormat) {
		return false
	}
	for i, want := range []byte(http.TimeFormat) {
		c := value[i]
		switch {
		case i >= len(http.TimeFormat)-len("GMT") && c != want,
			want >= '0' && want <= '9' && (c < '0' || c > '9'),
			want >= 'A' && want <= 'z' && (c < 'A' || c > 'z'),
			want <= ':' && (want < '0' || want == ':') && c != want:
			return false
		}
	}
	return true
}

// isTrace reports whether a value is a number as most systems name requests: a UUID, a trace, or
// anything else of hexadecimal digits.
func isTrace(value []byte) bool {
	value = bytes.TrimPrefix(value, []byte("Root="))
	digits := 0
	for _, c := range value {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			digits++
		case c != '-':
			return false
		}
	}
	return digits >= 8 && len(value) <= 72
}

// repeats reports whether a number is among the credentials of a request, whose head is given.
func (r *Request) repeats(number, head []byte) bool {
	for part := range bytes.SplitSeq(bytes.TrimPrefix(number, []byte("Root=")), []byte("-")) {
		if len(part) >= windowEncoded && (bytes.Contains(head, part) || bytes.Contains(head, bytes.ToLower(part)) ||
			bytes.Contains(head, bytes.ToUpper(part)) || r.inPassword(string(part))) {
			return true
		}
	}
	return bytes.Contains(head, number)
}

// inPassword reports whether a text is part of what basic authentication encodes.
func (r *Request) inPassword(text string) bool {
	if r.Auth.IsZero() {
		return false
	}
	credentials, basic := strings.CutPrefix(r.Auth.value(), "Basic ")
	if !basic {
		return false
	}
	plain, err := base64.StdEncoding.DecodeString(credentials)
	return err != nil || strings.Contains(strings.ToLower(string(plain)), strings.ToLower(text))
}

// isVisible reports whether a value is ASCII without control characters.
func isVisible(value []byte) bool {
	for _, c := range value {
		if c < ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}
