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

// errNothing is what a peeking wire returns when nothing has arrived. It calls itself temporary, so crypto/tls keeps
// what it has read of a record and goes on from there at the next Read.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has arrived" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// wire is the TCP connection under everything else, TLS included. Two things set it apart from a net.TCPConn:
//
//   - A Write of an ordinary request never waits, so one goroutine can write and then read: a receiver that answers
//     without reading the request, and never reads it, cannot hold up its own answer. What the socket does not take at
//     once, which is rare, is sent by a goroutine.
//   - Whether anything has arrived on an idle connection can be asked without waiting.
//
// One goroutine uses it at a time, but for a patient Write and abort.
type wire struct {
	*net.TCPConn
	raw syscall.RawConn

	peeking bool // Read returns errNothing instead of waiting
	in      transfer
	receive func(fd uintptr) bool

	patient  bool // Write waits until all is sent; it then has a goroutine of its own
	out      transfer
	transmit func(fd uintptr) bool
	full     atomic.Bool   // the socket has refused more: the other side does not read what it was sent
	sending  chan struct{} // is closed when the goroutine that sends the rest has ended; nil if there was none

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

// Read reads what has arrived. It waits for something to arrive unless the wire is peeking.
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

// Write takes all of p, or fails. Unless the wire is patient it does not wait: p is then no longer used when it
// returns, but may not all have been sent.
func (w *wire) Write(p []byte) (int, error) {
	if w.sending != nil {
		<-w.sending // only TLS writes a second time, and what it writes has to follow
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
		_ = w.raw.Write(w.transmit) // whether the request arrived shows in the answer
	}()
	return len(p), nil
}

func (w *wire) transmitSome(fd uintptr) bool {
	for w.out.n < len(w.out.p) {
		// Cleared before the socket is asked: while it is set some of the request has certainly not been sent.
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

// setDeadline bounds all that is read and written, unless the wire was aborted.
func (w *wire) setDeadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.aborted {
		_ = w.SetDeadline(t)
	}
}

// abort ends what is being read or written, and lets nothing further begin. It may be called at any time.
func (w *wire) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aborted = true
	_ = w.SetDeadline(time.Unix(1, 0))
}

// isTimeout reports whether a deadline of the wire has passed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// records stands below a TLS connection and knows whether the records that it has read are whole. crypto/tls does not
// tell whether it has read a part of one.
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
