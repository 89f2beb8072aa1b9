package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

var (
	errTimeout = errors.New("the attempt's time is up")
	errClosed  = errors.New("the sender is closed")
	errCrowded = errors.New("all connections are under way")
)

// orCause returns the reason why ctx has ended if that caused err, and err otherwise.
func orCause(ctx context.Context, err error) error {
	var refused *AddressError
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.As(err, &refused) {
		return cause
	}
	return err
}

// stage is how far an attempt got.
type stage int

const (
	connecting stage = iota
	connected        // the request was sent, or some of it
)

// classify sets the outcome of an attempt without a response. It looks at the types of errors and
// at how far the attempt got, never at the errors' texts. The reason is in our own words, because
// those texts may repeat what the receiver sent.
func (s *Sender) classify(ctx context.Context, got stage, err error, timeout time.Duration, a *Attempt) {
	var (
		refused   *AddressError
		tunnel    *tunnelError
		dial      *dialError
		handshake *tlsError
		foreign   *notHTTP
	)
	switch {
	case errors.As(err, &refused):
		a.fail(AddressRefused, refused.Error())
	case errors.Is(err, errClosed):
		a.fail(Cancelled, "the relay is stopping")
	case ctx.Err() != nil:
		a.fail(Cancelled, "broken off by the relay")
	case errors.Is(err, errCrowded):
		a.fail(Cancelled, "the relay had no connection to spare")
	case errors.Is(err, errTimeout):
		a.fail(Timeout, fmt.Sprintf("not connected within %v", timeout))
	case got == connected && isTimeout(err):
		a.fail(Timeout, fmt.Sprintf("no answer within %v", timeout))
	case errors.As(err, &tunnel):
		a.fail(ConnectFailed, "the proxy did not make the connection")
	case errors.As(err, &dial):
		a.fail(ConnectFailed, dial.reason(s.dialer.connectTimeout))
	case errors.As(err, &handshake):
		a.fail(TLSFailed, tlsReason(handshake.err, s.dialer.tlsTimeout))
	case isAlert(err): // with TLS 1.3 a client learns only after connecting that it was refused
		a.fail(TLSFailed, tlsReason(err, s.dialer.tlsTimeout))
	case errors.As(err, &foreign):
		a.fail(BadAnswer, foreign.reason)
	case isHangUp(err):
		a.fail(BadAnswer, "connection closed before an answer")
	default:
		a.fail(BadAnswer, "the connection broke before an answer")
	}
}

func (e *dialError) reason(limit time.Duration) string {
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
		return fmt.Sprintf("%snot connected within %v", prefix, limit)
	case errors.Is(e.err, syscall.EMFILE), errors.Is(e.err, syscall.ENFILE):
		return "the relay has no file descriptors left"
	}
	return prefix + "connecting failed"
}

// tlsReason describes why a handshake failed.
func tlsReason(err error, limit time.Duration) string {
	var (
		record    tls.RecordHeaderError
		remote    *net.OpError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &record):
		return "the receiver does not speak TLS on this port"
	case errors.As(err, &authority):
		return "the certificate is from an unknown authority"
	case errors.As(err, &hostname):
		return "the certificate is for another host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired or is not valid yet"
	case errors.As(err, &invalid):
		return "the certificate is not valid"
	case isAlert(err) && errors.As(err, &remote):
		return "the receiver refused the handshake: " + remote.Err.Error() // from the table of alerts in crypto/tls
	case isTimeout(err):
		return fmt.Sprintf("no TLS handshake within %v", limit)
	}
	return "the TLS handshake failed"
}

// isAlert reports whether the receiver ended the connection with a TLS alert. crypto/tls does not
// export the type.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// isHangUp reports whether the other side ended the connection.
func isHangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
