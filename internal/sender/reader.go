package sender

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
)

// How much of a response is read, as it comes over the connection: of the status and the header,
// including interim responses, and of the body.
const (
	maxHead = 64 << 10
	maxBody = 64 << 10
)

var (
	errTooLarge = errors.New("the answer is larger than what is read of it")
	errStray    = errors.New("more was sent than the answer")
)

// reader reads one response. It does not read more than its limits allow, and can report afterwards
// whether more has arrived.
type reader struct {
	src   io.Reader
	buf   [4096]byte
	r, w  int       // positions in buf: read up to r, written up to w
	left  int       // how many more bytes may be read from src
	cut   bool      // the rest of a line longer than buf must still be skipped
	cr    bool      // the last skipped byte of it was a CR
	odd   bool      // a line ended with LF alone, or a skipped part had a control character
	total int       // bytes read from src
	began time.Time // when the first of them came

	// After the status, the rest is worth little time: before waiting for more, conn gets a
	// deadline.
	decided  bool
	conn     *conn
	deadline time.Time // of the attempt
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func newReader(src io.Reader) *reader {
	r := readers.Get().(*reader)
	r.src, r.left = src, maxHead
	r.r, r.w, r.total, r.cut, r.cr, r.odd, r.decided, r.conn = 0, 0, 0, false, false, false, false, nil
	r.began = time.Time{}
	return r
}

func (r *reader) free() {
	r.src, r.conn = nil, nil
	readers.Put(r)
}

func (r *reader) buffered() int { return r.w - r.r }

// fill reads at least one more byte into the buffer, which must not be full of unread bytes.
func (r *reader) fill() error {
	if r.left == 0 {
		return errTooLarge
	}
	if r.decided && r.conn != nil {
		r.conn.wire.setDeadline(backoff.Earlier(r.deadline, time.Now().Add(bodyTimeout)))
		r.conn = nil
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if r.w == len(r.buf) {
		r.w = copy(r.buf[:], r.buf[r.r:r.w])
		r.r = 0
	}
	space := r.buf[r.w:min(len(r.buf), r.w+r.left)]
	for range 100 { // like bufio: a source that never returns anything is broken
		n, err := r.src.Read(space)
		r.w, r.left, r.total = r.w+n, r.left-n, r.total+n
		if n > 0 {
			if r.total == n {
				r.began = time.Now()
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// line returns the next line without its LF or CR LF. It is valid until the next call. If the line
// is longer than the buffer, only its beginning is returned. If there is an error, the line has not
// ended, and what has arrived of it is still buffered.
func (r *reader) line() ([]byte, error) {
	if err := r.passCut(); err != nil {
		return nil, err
	}
	for from := 0; ; {
		if i := bytes.IndexByte(r.buf[r.r+from:r.w], '\n'); i >= 0 {
			line := r.buf[r.r : r.r+from+i]
			r.r += from + i + 1
			if len(line) > 0 && line[len(line)-1] == '\r' {
				return line[:len(line)-1], nil
			}
			r.odd = true
			return line, nil
		}
		if from = r.buffered(); from == len(r.buf) {
			line := r.buf[:]
			r.r, r.cut = r.w, true
			return line, nil
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// passCut skips the rest of a line whose beginning was returned.
func (r *reader) passCut() error {
	for r.cut {
		part := r.buf[r.r:r.w]
		if i := bytes.IndexByte(part, '\n'); i >= 0 {
			part, r.cut = part[:i], false
			r.r += i + 1
		} else {
			r.r = r.w
		}
		if len(part) > 0 {
			r.odd = r.odd || r.cr // a CR that is not at the end
			if r.cr = part[len(part)-1] == '\r'; r.cr {
				part = part[:len(part)-1]
			}
			r.odd = r.odd || hasControl(part)
		}
		if !r.cut {
			r.odd, r.cr = r.odd || !r.cr, false
			break
		}
		if err := r.fill(); err != nil {
			return err
		}
	}
	return nil
}

// take reads n bytes and copies the first of them to keep, as many as fit. It returns how many it
// copied.
func (r *reader) take(n int64, keep []byte) (kept int, err error) {
	for n > 0 {
		if r.buffered() == 0 {
			if err := r.fill(); err != nil {
				return kept, err
			}
		}
		k := int(min(n, int64(r.buffered())))
		kept += copy(keep[kept:], r.buf[r.r:r.r+k])
		r.r += k
		n -= int64(k)
	}
	return kept, nil
}
