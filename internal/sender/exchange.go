package sender

import (
	"context"
	"sync"
	"time"
)

// exchange is one request over one connection, and what came back.
type exchange struct {
	request []byte // the head, and as much of the body as goes with it
	head    int    // how long the request's head is, without the line that ends it
	rest    []byte // of the body
	sign    string // the signature that it carries

	deadline time.Time
	answer   head
	kept     [excerptRead]byte // the beginning of the body of an answer that was not 2xx
	excerpt  []byte
	cut      bool   // the body goes on after the excerpt, or broke off
	flaw     string // what was wrong with the answer after its status
	reusable bool   // the connection is as it was before
	untidy   bool   // the receiver leaves on a connection what belongs to no request
}

var exchanges = sync.Pool{New: func() any { return &exchange{request: make([]byte, 0, maxInline)} }}

func (x *exchange) free() {
	x.rest, x.excerpt = nil, nil
	x.answer = head{}
	if cap(x.request) <= 4*maxInline {
		exchanges.Put(x)
	}
}

// complete adds what differs by connection, and the body, to the head of the request.
func (x *exchange) complete(body []byte, tidy bool) {
	b := x.request[:x.head]
	if !tidy {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	with := min(len(body), max(maxInline-len(b), 0))
	b = append(b, body[:with]...)
	x.request, x.rest = b, body[with:]
}

// over sends the request over a connection and reads the answer. An error means that there is no answer; whatever goes
// wrong after the status line is no error. The connection is not closed.
//
// Reading begins at once: an answer counts also if it comes before the receiver has read the request, and its request
// is then not sent to the end.
func (x *exchange) over(ctx context.Context, c *conn) error {
	stop := context.AfterFunc(ctx, c.wire.abort)
	c.send(x.request, x.rest)
	r := newReader(c.rw)
	defer r.free()
	r.conn, r.deadline = c, x.deadline
	x.excerpt, x.flaw, x.cut, x.reusable, x.untidy = nil, "", false, false, false
	err := r.readStatus(&x.answer)
	if err != nil {
		stop()
		return err
	}
	early := c.unread()
	whole := x.readRest(r)
	sent := !early && c.sent()
	early = early || !sent && c.unread()
	x.untidy = early || x.answer.announced() || whole && r.buffered() > 0
	x.reusable = stop() && sent && whole && !x.untidy && x.answer.keepAlive()
	return nil
}

// readRest reads what follows the status line and reports whether it ended as it said that it would.
func (x *exchange) readRest(r *reader) (whole bool) {
	h := &x.answer
	if err := r.readHead(h); err != nil {
		switch {
		case err == errTooLarge: //nolint:errorlint // the reader does not wrap it
			x.flaw = "its header is larger than 64 KiB"
		case isTimeout(err):
			x.flaw = "its header did not end"
		default:
			x.flaw = "the connection ended within its header"
		}
		return false
	}
	if h.status >= 200 && h.status <= 299 {
		_, whole = r.readBody(h, nil)
		return whole
	}
	kept, whole := r.readBody(h, x.kept[:])
	x.excerpt, x.cut = x.kept[:kept], !whole || kept == len(x.kept)
	return whole
}

// timedOut reports whether the answer is that of a receiver that had given up waiting for a request: on a connection
// that was used before it says nothing about this one.
func (x *exchange) timedOut() bool { return x.answer.status == 408 && !x.answer.keepAlive() }

// leftOver reports whether the answer has empty lines in front of it: on a connection that was used before they belong to
// the answer before, and so does what follows them.
func (x *exchange) leftOver() bool { return x.answer.led && !x.answer.interim }

// settle settles the attempt by what was answered.
func (x *exchange) settle(r *Request, proxyAuthorization string, a *Attempt) {
	a.answered(&x.answer)
	if a.Outcome == Success {
		return
	}
	if x.flaw != "" {
		a.Error += "; " + x.flaw
	}
	secrets := func() needles { return secretsOf(r, x.sign, proxyAuthorization) }
	a.Excerpt = excerpt(x.excerpt, x.cut, x.answer.compressed, secrets)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
