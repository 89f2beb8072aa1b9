package sender

import (
	"bytes"
	"errors"
	"strings"
)

// maxInterim is how many interim responses (1xx) may come before the response.
const maxInterim = 32

// head is the status line and the header of a response, as far as they matter here. The status
// alone decides the attempt, no matter how odd the rest is. The rest only decides whether the
// connection can be used again, and where the body ends; it is believed only if nothing in it is
// odd.
type head struct {
	status  int
	interim bool // interim responses came before it
	led     bool // empty lines came before it
	odd     bool // it contains something that HTTP does not allow, or that can be read in different ways

	current       bool // the version is 1.1: the connection stays open unless the response has "close"
	close, remain bool // the values of the Connection header

	length     int64 // from Content-Length; -1 if there is none
	chunked    bool
	coding     bool // there is a Transfer-Encoding
	compressed bool // there is a Content-Encoding

	retryAfter, date string // as received, for a status that can ask for a wait
	shown            *shown // collects the headers that are shown; nil: none are

	folding *string // the value that a continued line belongs to
}

// keepAlive reports whether the response leaves the connection open.
func (h *head) keepAlive() bool { return !h.odd && !h.close && (h.current || h.remain) }

// notHTTP is the reason why what was received is not a response, in our own words.
type notHTTP struct{ reason string }

func (e *notHTTP) Error() string { return e.reason }

// readStatus reads to the end of the status line, including interim responses.
func (r *reader) readStatus(h *head) error {
	*h = head{length: -1}
	for range maxInterim + 1 {
		if err := r.protocol(h); err != nil {
			return err
		}
		line, err := r.line()
		if end := bytes.IndexByte(r.buf[r.r:r.w], '\r'); err != nil && end > 0 {
			// It ends with CR alone, or was cut off before the LF: the status line is complete.
			line, err, r.odd = r.buf[r.r:r.r+end], nil, true
			r.r += end + 1
		}
		switch {
		case errors.Is(err, errTooLarge):
			return &notHTTP{"interim answers (1xx) are larger than 64 KiB, and no answer followed them"}
		case err != nil && isHangUp(err):
			return &notHTTP{"connection closed within the status line of the answer"}
		case err != nil:
			return err
		}
		if !h.parseStatus(line) {
			return &notHTTP{"the answer's status line is malformed"}
		}
		if h.status >= 200 || h.status == 101 {
			r.decided = true
			return nil
		}
		// The contents of an interim response are ignored.
		ignored := head{length: -1}
		if err := r.readHead(&ignored); err != nil {
			return interimError(err)
		}
		*h = head{length: -1, interim: true, odd: h.odd || ignored.odd}
	}
	return &notHTTP{"only interim answers (1xx) came"}
}

func interimError(err error) error {
	switch {
	case errors.Is(err, errTooLarge):
		return &notHTTP{"interim answers (1xx) are larger than 64 KiB, and no answer followed them"}
	case isHangUp(err):
		return &notHTTP{"connection closed within an interim answer (1xx)"}
	}
	return err
}

const httpName = "HTTP/"

// protocol returns an error unless an HTTP response begins here, after empty lines at most. The
// error describes what begins instead.
func (r *reader) protocol(h *head) error {
	for empty := 0; ; {
		for r.buffered() > 0 && (r.buf[r.r] == '\r' || r.buf[r.r] == '\n') && empty < 8 {
			r.r++
			empty++
			h.led, h.odd = true, true
		}
		begin := r.buf[r.r:r.w]
		if len(begin) >= len(httpName) && strings.EqualFold(string(begin[:len(httpName)]), httpName) {
			return nil
		}
		if len(begin) > 0 && !strings.EqualFold(string(begin), httpName[:min(len(begin), len(httpName))]) {
			return r.otherProtocol()
		}
		err := r.fill()
		switch {
		case err == nil:
		case len(begin) > 0 && isHangUp(err):
			return &notHTTP{"connection closed within the status line of the answer"}
		case h.interim && isHangUp(err):
			return &notHTTP{"connection closed after an interim answer (1xx)"}
		case errors.Is(err, errTooLarge):
			return interimError(err)
		default:
			return err
		}
	}
}

// otherProtocol returns an error that names what answered, judging by its first bytes.
func (r *reader) otherProtocol() error {
	const frameHeader, preface = 9, "PRI * HTTP/2" // of HTTP/2
	enough := frameHeader
	if r.buf[r.r] == preface[0] {
		enough = len(preface)
	}
	for r.decided = true; r.buffered() < enough && r.fill() == nil; {
	}
	begin := r.buf[r.r:r.w]
	frame := len(begin) >= frameHeader && begin[0] == 0 && begin[5] == 0 && begin[6] == 0 &&
		begin[7] == 0 && begin[8] == 0
	switch {
	case bytes.HasPrefix(begin, []byte(preface)),
		frame && (begin[3] == 4 || begin[3] == 7): // SETTINGS or GOAWAY of the connection
		return &notHTTP{"the receiver speaks HTTP/2 only; HTTP/1.1 is needed"}
	case len(begin) >= 2 && begin[0] >= 20 && begin[0] <= 23 && begin[1] == 3: // a record of any version
		return &notHTTP{"the receiver speaks TLS here, but the URL is not https"}
	case bytes.HasPrefix(begin, []byte("SSH-")):
		return &notHTTP{"the answer is not HTTP: an SSH server answered"}
	case bytes.HasPrefix(begin, []byte("ICY ")):
		return &notHTTP{"the answer is not HTTP: a streaming server answered (ICY)"}
	}
	return &notHTTP{"the answer is not HTTP: it has no status line"}
}

// parseStatus parses a status line: a version and three digits. What follows them is ignored.
func (h *head) parseStatus(line []byte) bool {
	rest := line[len(httpName):]
	h.odd = h.odd || string(line[:len(httpName)]) != httpName
	major, rest := digits(rest)
	var minor []byte
	if len(rest) > 0 && rest[0] == '.' {
		minor, rest = digits(rest[1:])
	}
	code := bytes.TrimLeft(rest, " \t")
	status, after := digits(code)
	if len(major) == 0 || len(code) == len(rest) || len(status) != 3 || status[0] == '0' {
		return false
	}
	h.status = int(status[0]-'0')*100 + int(status[1]-'0')*10 + int(status[2]-'0')
	h.current = string(major) == "1" && string(minor) == "1"
	h.odd = h.odd || !h.current && (string(major) != "1" || string(minor) != "0") ||
		len(rest)-len(code) != 1 || len(after) > 0 && after[0] != ' ' || hasControl(line)
	return true
}

// digits splits off the leading digits.
func digits(b []byte) (number, rest []byte) {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return b[:n], b[n:]
}

// readHead reads the header after the status line. No content of a header is an error; readHead
// fails only if the header does not end.
func (r *reader) readHead(h *head) error {
	for {
		line, err := r.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			h.odd = h.odd || r.odd || h.coding && (h.length >= 0 || !h.current)
			return nil
		}
		h.field(line, r.cut)
	}
}

// field reads one header line. Long is set if line is only its beginning.
func (h *head) field(line []byte, long bool) {
	h.odd = h.odd || hasControl(line)
	if line[0] == ' ' || line[0] == '\t' { // it continues the previous line, which is no longer allowed
		h.odd = true
		if h.folding != nil && len(*h.folding) < 256 {
			*h.folding = strings.TrimSpace(*h.folding + " " + string(bytes.TrimSpace(line)))
		}
		return
	}
	h.folding = nil
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		h.odd = true
		return
	}
	name := bytes.TrimRight(line[:colon], " \t")
	if len(name) < colon || !isToken(name) {
		h.odd = true
	}
	value := bytes.TrimSpace(line[colon+1:])
	if h.shown != nil {
		h.shown.note(name, value)
	}
	switch {
	case is(name, "Content-Length"):
		h.contentLength(value)
	case is(name, "Transfer-Encoding"):
		h.odd = h.odd || h.coding || !is(value, "chunked")
		h.chunked = !h.coding && is(value, "chunked")
		h.coding = true
	case is(name, "Connection"):
		h.connection(value)
	case is(name, "Content-Encoding"):
		h.compressed = h.compressed || len(value) > 0 && !is(value, "identity")
	case !asksToWait(h.status):
		return
	case is(name, "Retry-After") && h.retryAfter == "":
		h.retryAfter = short(value)
		h.folding = &h.retryAfter
	case is(name, "Date") && h.date == "":
		h.date = short(value)
		h.folding = &h.date
	default:
		return
	}
	h.odd = h.odd || long // the end of a relevant line is missing
}

// contentLength reads one Content-Length. The same number several times, in one line or several,
// counts once.
func (h *head) contentLength(value []byte) {
	for part := range bytes.SplitSeq(value, []byte(",")) {
		number, rest := digits(bytes.TrimSpace(part))
		if len(number) == 0 || len(rest) > 0 || len(number) > 18 {
			h.odd = true
			return
		}
		n := int64(0)
		for _, c := range number {
			n = n*10 + int64(c-'0')
		}
		if h.length >= 0 && h.length != n {
			h.odd = true
			return
		}
		h.length = n
	}
}

func (h *head) connection(value []byte) {
	for option := range bytes.SplitSeq(value, []byte(",")) {
		switch option = bytes.TrimSpace(option); {
		case is(option, "close"):
			h.close = true
		case is(option, "keep-alive"):
			h.remain = true
		}
	}
}

// is reports whether b equals word, ignoring case.
func is(b []byte, word string) bool { return len(b) == len(word) && strings.EqualFold(string(b), word) }

// short returns the beginning of a value whose end does not matter.
func short(b []byte) string { return string(b[:min(len(b), 128)]) }

// hasControl reports whether b contains a control character other than a tab.
func hasControl(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}
