package sender

import (
	"context"
	"sync"
	"time"
)

// exchange is one request over one connection, and its response.
type exchange struct {
	request []byte // the head, and as much of the body as is sent with it
	head    int    // the length of the request's head, without the line that ends it
	rest    []byte // of the body
	sign    string // the request's signature

	deadline time.Time
	answer   head
	shown    shown             // of its header
	waited   time.Duration     // from the beginning of the request until the response began; 0 if it did not
	kept     [excerptRead]byte // the beginning of the body of a response that is not 2xx
	excerpt  []byte
	cut      bool   // the body continues after the excerpt, or broke off
	flaw     string // what was wrong with the response after its status
	reusable bool   // the connection can be used again
	untidy   bool   // the receiver leaves bytes on a connection that belong to no request
}

var exchanges = sync.Pool{New: func() any { return &exchange{request: make([]byte, 0, maxInline)} }}

func (x *exchange) free() {
	x.rest, x.excerpt = nil, nil
	x.answer = head{}
	if cap(x.request) <= 4*maxInline {
		exchanges.Put(x)
	}
}

// complete adds to the head of the request what depends on the connection, and the body.
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

// over sends the request over a connection and reads the response. It returns an error if there is
// no response; a problem after the status line is not an error. It does not close the connection.
//
// It reads at once: a response counts even if it comes before the receiver has read the request.
// The rest of the request is then not sent.
func (x *exchange) over(ctx context.Context, c *conn) error {
	stop := context.AfterFunc(ctx, c.wire.abort)
	begun := time.Now()
	c.send(x.request, x.rest)
	r := newReader(c.rw)
	defer r.free()
	r.conn, r.deadline = c, x.deadline
	x.excerpt, x.flaw, x.cut, x.reusable, x.untidy = nil, "", false, false, false
	err := r.readStatus(&x.answer)
	x.waited = 0
	if !r.began.IsZero() {
		x.waited = r.began.Sub(begun)
	}
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

// readRest reads what follows the status line, and reports whether it ended where it announced its
// end.
func (x *exchange) readRest(r *reader) (whole bool) {
	h := &x.answer
	x.shown.reset()
	h.shown = &x.shown
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

// timedOut reports whether the response is that of a receiver that stopped waiting for a request.
// On a connection that was used before, it is not about this request.
func (x *exchange) timedOut() bool { return x.answer.status == 408 && !x.answer.keepAlive() }

// leftOver reports whether there were empty lines before the response. On a connection that was
// used before, they and what follows them belong to the previous response.
func (x *exchange) leftOver() bool { return x.answer.led && !x.answer.interim }

// settle sets the attempt's outcome from the response, which came over c.
func (x *exchange) settle(r *Request, proxyAuthorization string, c *conn, a *Attempt) {
	a.answered(&x.answer)
	var found needles
	secrets := func() needles {
		if found == nil {
			found = secretsOf(r, x.sign, proxyAuthorization)
		}
		return found
	}
	if a.Outcome == Success {
		a.Headers = x.shown.afterSuccess(x, r, c, secrets)
		return
	}
	a.Headers = x.shown.afterFailure(secrets)
	if x.flaw != "" {
		a.Error += "; " + x.flaw
	}
	a.Excerpt = excerpt(x.excerpt, x.cut, x.answer.compressed, secrets)
}
