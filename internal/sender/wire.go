package sender

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// errNothing is what a peeking wire returns if nothing has arrived. It claims to be temporary, so
// that crypto/tls keeps the part of a record that it has read, and continues there at the next
// Read.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has arrived" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// wire is the TCP connection below everything else, including TLS. It differs from a net.TCPConn in
// two ways:
//
//   - A Write of an ordinary request never waits, so one goroutine can write and then read: a
//     receiver that responds without reading the request, and never reads it, cannot delay its own
//     response. What the socket does not accept at once, which is rare, is sent by a goroutine.
//   - It can find out without waiting whether anything has arrived on an idle connection.
//
// One goroutine uses it at a time, except for a patient Write and abort.
type wire struct {
	*net.TCPConn
	raw syscall.RawConn

	peeking bool // Read returns errNothing instead of waiting
	in      transfer
	receive func(fd uintptr) bool

	patient  bool // Write waits until everything is sent; it then has its own goroutine
	out      transfer
	transmit func(fd uintptr) bool
	full     atomic.Bool   // the socket has refused more: the other side does not read
	sending  chan struct{} // closed when the goroutine that sends the rest has ended; nil if there is none

	mu      sync.Mutex // orders abort and setDeadline
	aborted bool
}

// transfer is one read or write under way.
type transfer struct {
	p    []byte
	n    int
	err  error
	wait bool
}

func newWire(tcp *net.TCPConn) (*wire, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{TCPConn: tcp, raw: raw}
	w.receive, w.transmit = w.receiveOnce, w.transmitSome
	return w, nil
}

// Read reads what has arrived. Unless the wire is peeking, it waits for something to arrive.
func (w *wire) Read(p []byte) (int, error) {
	if !w.peeking || len(p) == 0 {
		return w.TCPConn.Read(p)
	}
	w.in = transfer{p: p}
	if err := w.raw.Read(w.receive); err != nil {
		return 0, err
	}
	return w.in.n, w.in.err
}

func (w *wire) receiveOnce(fd uintptr) bool {
	for {
		n, err := syscall.Read(int(fd), w.in.p)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			w.in.err = errNothing
		case err != nil:
			w.in.err = err
		case n == 0:
			w.in.err = io.EOF
		default:
			w.in.n = n
		}
		return true
	}
}

// Write accepts all of p, or fails. Unless the wire is patient it does not wait: when it returns, p
// is no longer used, but may not have been sent completely.
func (w *wire) Write(p []byte) (int, error) {
	if w.sending != nil {
		<-w.sending // only TLS writes a second time, and its writes must stay in order
	}
	w.out = transfer{p: p, wait: w.patient}
	err := w.raw.Write(w.transmit)
	if err == nil {
		err = w.out.err
	}
	if n := w.out.n; err != nil || n == len(p) {
		return n, err
	}
	w.out = transfer{p: bytes.Clone(p[w.out.n:]), wait: true}
	w.sending = make(chan struct{})
	go func() {
		defer close(w.sending)
		_ = w.raw.Write(w.transmit) // the response shows whether the request arrived
	}()
	return len(p), nil
}

func (w *wire) transmitSome(fd uintptr) bool {
	for w.out.n < len(w.out.p) {
		// Cleared before the socket is tried: while it is set, part of the request has certainly
		// not been sent.
		w.full.Store(false)
		n, err := syscall.Write(int(fd), w.out.p[w.out.n:])
		w.out.n += max(n, 0)
		switch {
		case err == nil, errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			w.full.Store(true)
			return !w.out.wait
		default:
			w.out.err = err
			return true
		}
	}
	return true
}

// setDeadline sets the deadline for reads and writes, unless the wire was aborted.
func (w *wire) setDeadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.aborted {
		_ = w.SetDeadline(t)
	}
}

// abort ends reads and writes under way, and prevents further ones. It may be called at any time.
func (w *wire) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aborted = true
	_ = w.SetDeadline(time.Unix(1, 0))
}

// isTimeout reports whether a deadline of the wire has passed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// records is below a TLS connection and knows whether the records read so far are complete.
// crypto/tls does not report whether it has read a part of one.
type records struct {
	net.Conn
	header [5]byte
	have   int // how many bytes of the header
	body   int // how many bytes of the record are still to come
}

func (r *records) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	for p := p[:n]; len(p) > 0; {
		if r.body > 0 {
			k := min(r.body, len(p))
			r.body -= k
			p = p[k:]
			continue
		}
		r.header[r.have] = p[0]
		p = p[1:]
		if r.have++; r.have == len(r.header) {
			r.have, r.body = 0, int(r.header[3])<<8|int(r.header[4])
		}
	}
	return n, err
}

func (r *records) whole() bool { return r.have == 0 && r.body == 0 }
