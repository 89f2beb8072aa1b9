package sender

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// key says whom a connection belongs to: one callback at one URL. No connection serves two callbacks, so whatever a
// receiver leaves on one can reach no other client, and a new URL begins without what was known of the old one.
type key struct{ callback, url string }

// conn is a connection to a receiver, or to the proxy. It belongs to one goroutine at a time: to that of an attempt, or
// to whoever took it out of the idle ones.
type conn struct {
	key    key
	wire   *wire
	rw     net.Conn // the wire, or TLS over it
	under  []*records
	remote netip.AddrPort
	peeked [len("HTTP/1.1 408")]byte

	writing chan struct{} // is closed when the goroutine that writes a large request has ended; nil if there was none
	failed  bool          // writing has failed; set before writing is closed

	idle  time.Time // since when
	links [2]links  // among the idle ones: of all callbacks, and of its own
}

type links struct{ newer, older *conn }

// secure puts TLS over what there is so far.
func (c *conn) secure(config *tls.Config) error {
	under := &records{Conn: c.rw}
	secured := tls.Client(under, config)
	if err := secured.HandshakeContext(context.Background()); err != nil { // the wire is aborted instead
		return err
	}
	c.under, c.rw = append(c.under, under), secured
	return nil
}

// state is what an idle connection was found in.
type state int

const (
	silent state = iota // open, and nothing has arrived: it can be used again
	gone                // the other side has closed it, or has begun to
	stray               // bytes have arrived that nobody asked for
)

// look says what has become of an idle connection, without waiting. Over TLS it reads what belongs to TLS itself, such
// as session tickets.
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
			return gone // the beginning of a record: what it holds is not worth waiting for
		}
	}
	return silent
}

// isRequestTimeout reports whether an idle connection was sent a 408, as some load balancers do before they close it.
func isRequestTimeout(b []byte) bool {
	return len(b) == len("HTTP/1.1 408") && string(b[:7]) == "HTTP/1." && string(b[8:]) == " 408"
}

// maxInline is the largest request that one write takes: it fits into one TLS record.
const maxInline = 16 << 10

// send begins to send a request, first and then rest, without waiting for the other side. What goes wrong shows in the
// answer. Both must stay as they are until sent or close has returned.
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

// unsent is closed when all of the request has been sent or has failed to be; it is nil when that was so at once.
func (c *conn) unsent() <-chan struct{} {
	if c.writing != nil {
		return c.writing
	}
	return c.wire.sending
}

// unread reports whether the other side has certainly not been sent the whole request.
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

// sent reports whether all of the request has been sent. What writes it may be about to end, or have ended without
// having come to say so yet: it gets a moment, unless the other side does not read on.
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

// close closes the connection and waits for what still writes to it.
func (c *conn) close() {
	ended := c.unsent()
	if ended != nil {
		_ = c.wire.Close() // a farewell by TLS would have to wait for the rest of the request
		<-ended
	}
	_ = c.rw.Close()
	if c.wire.sending != nil {
		<-c.wire.sending // of the farewell
	}
}
