package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	errTimeout = errors.New("the attempt's time is up")
	errHungUp  = errors.New("connection closed before an answer, repeatedly")
)

// flight is what is known of one attempt while it is in the air. net/http tells of it through httptrace; the dial
// finds it in its context.
type flight struct {
	plain   bool // the URL is http
	proxied bool // the connection goes to a proxy
	resends int  // how many times the request may still go out again

	connected bool
	remote    netip.AddrPort

	// Set by the goroutine that dials, which may outlive the attempt.
	handshake atomic.Pointer[error]
}

type flightKey struct{}

func (f *flight) getConn(string) { f.connected = false }

func (f *flight) gotConn(info httptrace.GotConnInfo) {
	f.connected = true
	if tcp, ok := info.Conn.RemoteAddr().(*net.TCPAddr); ok {
		addr := tcp.AddrPort()
		f.remote = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
}

func (f *flight) handshakeDone(_ tls.ConnectionState, err error) {
	if err != nil {
		f.handshake.Store(&err)
	}
}

// classify says what an attempt without an answer came to. It goes by the types of errors and by how far the attempt
// got, never by their text; and it words the reason itself, as those texts may repeat what the receiver sent.
func classify(ctx context.Context, f *flight, err error, timeout time.Duration, a *Attempt) {
	var (
		refused *AddressError
		dial    *dialError
	)
	handshake := f.handshake.Load()
	switch {
	case errors.As(err, &refused):
		a.fail(AddressRefused, refused.Error())
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout):
		a.fail(Cancelled, "broken off by the relay")
	case ctx.Err() != nil && f.connected:
		a.fail(Timeout, fmt.Sprintf("no answer within %v", timeout))
	case ctx.Err() != nil:
		a.fail(Timeout, fmt.Sprintf("not connected within %v", timeout))
	case errors.As(err, &dial):
		a.fail(ConnectFailed, dial.reason())
	case !f.connected && handshake != nil:
		a.fail(TLSFailed, tlsReason(*handshake, err))
	case isAlert(err): // TLS 1.3 tells of a refused client only once it is connected
		a.fail(TLSFailed, tlsReason(err, err))
	case !f.connected && f.proxied:
		a.fail(ConnectFailed, "the proxy did not make the connection")
	case errors.Is(err, errHungUp):
		a.fail(BadAnswer, errHungUp.Error())
	case isHangUp(err):
		a.fail(BadAnswer, "connection closed before an answer")
	case f.connected:
		a.fail(BadAnswer, "no HTTP/1.1 answer came back: it is malformed, its header too large, or the connection broke")
	default:
		a.fail(Invalid, "the request cannot be sent: its URL or a header holds what HTTP does not allow")
	}
}

func (e *dialError) reason() string {
	var (
		dns    *net.DNSError
		netErr net.Error
	)
	prefix := "the receiver: "
	if e.proxy {
		prefix = "the proxy: "
	}
	switch {
	case e.status != 0:
		return fmt.Sprintf("the proxy answered CONNECT with %d", e.status)
	case errors.As(e.err, &dns) && dns.IsNotFound:
		return prefix + "name not found"
	case errors.As(e.err, &dns):
		return prefix + "name look-up failed"
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return prefix + "connection refused"
	case errors.Is(e.err, syscall.EHOSTUNREACH), errors.Is(e.err, syscall.ENETUNREACH):
		return prefix + "no route"
	case errors.As(e.err, &netErr) && netErr.Timeout(), errors.Is(e.err, context.DeadlineExceeded):
		return fmt.Sprintf("%snot connected within %v", prefix, dialTimeout)
	case errors.Is(e.err, syscall.EMFILE), errors.Is(e.err, syscall.ENFILE):
		return "the relay has no file descriptors left"
	}
	return prefix + "connecting failed"
}

// tlsReason words a failed handshake. err is what the attempt ended with: when the time limit of the handshake broke it
// off, only that tells.
func tlsReason(handshake, err error) string {
	var (
		record    tls.RecordHeaderError
		remote    *net.OpError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		netErr    net.Error
	)
	switch {
	case errors.As(handshake, &record):
		return "the receiver does not speak TLS on this port"
	case errors.As(handshake, &authority):
		return "the certificate is from an unknown authority"
	case errors.As(handshake, &hostname):
		return "the certificate is for another host"
	case errors.As(handshake, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired or is not valid yet"
	case errors.As(handshake, &invalid):
		return "the certificate is not valid"
	case isAlert(handshake) && errors.As(handshake, &remote):
		return "the receiver refused the handshake: " + remote.Err.Error() // from the table of alerts in crypto/tls
	case errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Sprintf("no TLS handshake within %v", tlsTimeout)
	}
	return "the TLS handshake failed"
}

// isAlert reports whether the receiver ended the connection with a TLS alert. crypto/tls does not export the type.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// isHangUp reports whether the other side ended the connection.
func isHangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
