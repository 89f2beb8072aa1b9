package sender

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// key identifies who may use a connection: one callback at one URL. No connection serves two
// callbacks, so what a receiver leaves on one cannot reach another client, and a new URL starts
// without what is known about the old one.
type key struct{ callback, url string }

// conn is a connection to a receiver, or to the proxy. Only one goroutine uses it at a time: that
// of an attempt, or the one that took it from the idle connections.
type conn struct {
	key    key
	wire   *wire
	rw     net.Conn // the wire, or TLS over it
	under  []*records
	remote netip.AddrPort
	trust  *tls.Config // that the receiver's certificate was judged by; nil without TLS
	// receiver is TLS with the receiver; nil without it, also where there is TLS with the proxy.
	receiver *tls.Conn
	peeked   [len("HTTP/1.1 408")]byte
	// searched are the values of steady headers in which no secret was found (shown.go).
	searched [3]string
	shown    string // the headers that were shown of its last response that was a success

	writing chan struct{} // closed when the goroutine that writes a large request has ended; nil if there is none
	failed  bool          // writing has failed; set before writing is closed

	idle  time.Time // since when
	links [2]links  // in the two chains of idle connections, see ofAll and ofOwn
}

type links struct{ newer, older *conn }

// secure puts TLS on top of the connection.
func (c *conn) secure(config *tls.Config) error {
	under := &records{Conn: c.rw}
	secured := tls.Client(under, config)
	if err := secured.HandshakeContext(context.Background()); err != nil { // the wire is aborted instead
		return err
	}
	c.under, c.rw = append(c.under, under), secured
	return nil
}

// state is the state of an idle connection.
type state int

const (
	silent state = iota // open, and nothing has arrived: it can be used again
	gone                // the other side has closed it, or has begun to
	stray               // unrequested bytes have arrived
)

// look returns the state of an idle connection, without waiting. Over TLS it reads what belongs to
// TLS itself, such as session tickets.
func (c *conn) look() state {
	c.wire.peeking = true
	n, err := c.rw.Read(c.peeked[:])
	c.wire.peeking = false
	switch {
	case n > 0 && isRequestTimeout(c.peeked[:n]):
		return gone
	case n > 0:
		return stray
	case err != errNothing: //nolint:errorlint // neither the wire nor crypto/tls wraps it
		return gone
	}
	for _, r := range c.under {
		if !r.whole() {
			return gone // the beginning of a record: its contents are not worth waiting for
		}
	}
	return silent
}

// isRequestTimeout reports whether bytes are the beginning of a 408, which some load balancers send
// before they close an idle connection.
func isRequestTimeout(b []byte) bool {
	return len(b) == len("HTTP/1.1 408") && string(b[:7]) == "HTTP/1." && string(b[8:]) == " 408"
}

// maxInline is the size of the largest request that is sent with one write: it fits into one TLS
// record.
const maxInline = 16 << 10

// send begins to send a request, first and then rest, without waiting for the other side. Errors
// show in the response. The caller must not change first or rest until sent or close has returned.
func (c *conn) send(first, rest []byte) {
	if len(first) <= maxInline && len(rest) == 0 {
		_, err := c.rw.Write(first)
		c.failed = err != nil
		return
	}
	c.wire.patient, c.writing = true, make(chan struct{})
	go func() {
		defer close(c.writing)
		_, err := c.rw.Write(first)
		if err == nil && len(rest) > 0 {
			_, err = c.rw.Write(rest)
		}
		c.failed = err != nil
	}()
}

// unsent returns a channel that is closed when the request has been sent, or sending has failed. It
// is nil if that happened at once.
func (c *conn) unsent() <-chan struct{} {
	if c.writing != nil {
		return c.writing
	}
	return c.wire.sending
}

// unread reports whether part of the request has certainly not been sent.
func (c *conn) unread() bool {
	ended := c.unsent()
	if ended == nil {
		return false
	}
	select {
	case <-ended:
		return false
	default:
		return c.wire.full.Load()
	}
}

// sent reports whether all of the request has been sent. The goroutine that writes it may be about
// to end, so sent waits for a moment, unless the other side does not read.
func (c *conn) sent() bool {
	ended := c.unsent()
	if ended == nil {
		return !c.failed
	}
	tick := time.NewTicker(bodyTimeout / 50)
	defer tick.Stop()
	for range 50 {
		select {
		case <-ended:
			c.writing, c.wire.sending, c.wire.patient = nil, nil, false
			return !c.failed
		case <-tick.C:
			if c.wire.full.Load() {
				return false
			}
		}
	}
	return false
}

// close closes the connection and waits for the goroutine that still writes to it.
func (c *conn) close() {
	ended := c.unsent()
	if ended != nil {
		_ = c.wire.Close() // closing TLS properly would wait for the rest of the request
		<-ended
	}
	_ = c.rw.Close()
	if c.wire.sending != nil {
		<-c.wire.sending // TLS's closing message
	}
}
