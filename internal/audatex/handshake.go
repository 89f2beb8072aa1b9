package audatex

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// HandshakeFault is why a TLS connection to the vendor failed. It is determined by the types of
// errors, never by their texts.
type HandshakeFault int

const (
	// OtherFault is any fault not listed below.
	OtherFault HandshakeFault = iota
	// NoCommonVersion: the server supports none of the TLS versions that the relay offers.
	NoCommonVersion
	// NoCommonCipher: there is no common cipher suite, or another setting differs.
	NoCommonCipher
	// EndedUnexplained: the server ended the connection in the middle of the handshake.
	EndedUnexplained
	// NotTLS: the server on this port does not speak TLS.
	NotTLS
	// UnknownAuthority: the certificate is not signed by an authority that this machine trusts.
	UnknownAuthority
	// CertificateExpired: the certificate is not valid yet, or no longer.
	CertificateExpired
	// WrongName: the certificate belongs to another host.
	WrongName
	// OtherCertificate is any other problem with the certificate.
	OtherCertificate
	// NoRoots: this machine has no list of authorities.
	NoRoots
	// ClientCertificate: the server requires a certificate from the relay, which has none.
	ClientCertificate
	// HandshakeTimeout: the handshake took too long.
	HandshakeTimeout
)

// HandshakeError is the error of a failed TLS handshake with the vendor: what is wrong, and what to
// do.
type HandshakeError struct {
	Fault HandshakeFault

	detail string // of the certificate
	err    error
}

// Error returns what is wrong and what to do, followed by the cause.
func (e *HandshakeError) Error() string {
	var b strings.Builder
	b.WriteString("TLS handshake failed: ")
	b.WriteString(handshakeWords[e.Fault])
	if e.detail != "" {
		fmt.Fprintf(&b, " (%s)", e.detail)
	}
	if cause := message([]byte(e.err.Error()), relay.Secret{}); cause != "" {
		fmt.Fprintf(&b, ": %s", cause)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *HandshakeError) Unwrap() error { return e.err }

var handshakeWords = [...]string{
	OtherFault: "the connection is not secure, so nothing was sent",
	NoCommonVersion: "the server has no version of TLS that the relay offers, which are 1.2 and 1.3; " +
		"have TLS 1.2 switched on there, or look for an older proxy in between",
	NoCommonCipher: "the server has no cipher suite that the relay offers, which are those of TLS 1.3 and those with " +
		"ECDHE and AES or ChaCha20; have one switched on there. If it has key exchange by RSA only, " +
		"GODEBUG=tlsrsakex=1 in the relay's environment offers that, without forward secrecy",
	EndedUnexplained: "the server, or a firewall before it, ended the connection without a word. Windows servers " +
		"do so where no version of TLS (the relay offers 1.2 and 1.3) or no cipher suite (it offers those with " +
		"ECDHE) is common",
	NotTLS: "what answers on this port does not speak TLS; check scheme and port of the vendor's address, and the " +
		"proxy",
	UnknownAuthority: "no authority that this machine trusts has signed the server's certificate; add the " +
		"authority to the system's, or name a file with it in SSL_CERT_FILE. A proxy that looks into TLS has an " +
		"authority of its own, and a server may leave out an intermediate certificate",
	CertificateExpired: "the server's certificate is not valid at this time; check the clock of this machine, and " +
		"have the certificate renewed",
	WrongName:        "the server's certificate is that of another host; check the host in the vendor's address",
	OtherCertificate: "the server's certificate is not accepted",
	NoRoots: "this machine has no list of authorities; install ca-certificates, or name a file with them in " +
		"SSL_CERT_FILE",
	ClientCertificate: "the server wants a certificate of its client, which the relay does not have; a proxy in " +
		"between may be what wants it",
	HandshakeTimeout: "it was not finished in time; the server or the network is slow, or what answers on this port " +
		"does not speak TLS",
}

// handshake observes the handshakes of one call. A transport may begin one in the background.
type handshake struct{ state atomic.Int32 }

const (
	handshakeBegun = 1 + iota
	handshakeDone
)

// watch returns a context whose requests record their handshakes and, in sent, their connection.
func (h *handshake) watch(ctx context.Context, sent *bool) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:           func(httptrace.GotConnInfo) { *sent = true },
		TLSHandshakeStart: func() { h.state.Store(handshakeBegun) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				h.state.Store(handshakeDone)
			}
		},
	})
}

// explain turns the error of a request into a HandshakeError if a handshake has failed. After there
// was a connection, only an alert means that: with TLS 1.3 a server checks the client's certificate
// after the client considers the handshake complete.
func (h *handshake) explain(err error, connected bool) error {
	_, alert := alertOf(err)
	switch {
	case is[*HandshakeError](err), errors.Is(err, context.Canceled), connected && !alert:
		return err
	case h.state.Load() == handshakeBegun, faultOf(err) != OtherFault:
		return newHandshakeError(err)
	}
	return err
}

// newHandshakeError classifies the error of a handshake.
func newHandshakeError(err error) *HandshakeError {
	e := &HandshakeError{Fault: faultOf(err), err: err}
	if e.Fault == OtherFault {
		var network net.Error
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
			errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			e.Fault = EndedUnexplained
		case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
			e.Fault = HandshakeTimeout
		}
	}
	e.detail = certificateDetail(err)
	return e
}

// faultOf returns the fault for an error's type alone, OtherFault if the error may have another
// origin than a handshake.
func faultOf(err error) HandshakeFault {
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case is[tls.RecordHeaderError](err), errors.Is(err, http.ErrSchemeMismatch):
		return NotTLS
	case is[x509.UnknownAuthorityError](err):
		return UnknownAuthority
	case is[x509.HostnameError](err):
		return WrongName
	case is[x509.SystemRootsError](err):
		return NoRoots
	case isInvalid && invalid.Reason == x509.Expired:
		return CertificateExpired
	case isInvalid, is[*tls.CertificateVerificationError](err):
		return OtherCertificate
	}
	if number, ok := alertOf(err); ok {
		return alertFaults[number]
	}
	return OtherFault
}

// is reports whether there is an error of a type in err.
func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// alertFaults are the alerts of RFC 8446, section 6, and RFC 5246, section 7.2, that have a
// specific meaning.
var alertFaults = map[uint8]HandshakeFault{
	40: NoCommonCipher, 71: NoCommonCipher, // handshake_failure, insufficient_security
	70: NoCommonVersion, 86: NoCommonVersion, // protocol_version, inappropriate_fallback
	42: ClientCertificate, 43: ClientCertificate, 116: ClientCertificate, // bad, unsupported, certificate_required
	112: WrongName, // unrecognized_name
}

// alertOf returns the alert that the server sent. crypto/tls returns its exported type only for
// QUIC; otherwise it is an unexported type within a net.OpError.
func alertOf(err error) (uint8, bool) {
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return uint8(alert), true
	}
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Err == nil {
		return 0, false
	}
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 || v.Type().PkgPath() != reflect.TypeFor[tls.AlertError]().PkgPath() {
		return 0, false
	}
	return uint8(v.Uint()), true
}

// certificateDetail describes the server's certificate.
func certificateDetail(err error) string {
	var verification *tls.CertificateVerificationError
	if !errors.As(err, &verification) || len(verification.UnverifiedCertificates) == 0 {
		return ""
	}
	c := verification.UnverifiedCertificates[0]
	const layout = time.DateOnly
	return message(fmt.Appendf(nil, "for %s, by %s, from %s to %s", firstOf(c.DNSNames, c.Subject.String()), c.Issuer,
		c.NotBefore.UTC().Format(layout), c.NotAfter.UTC().Format(layout)), relay.Secret{})
}

func firstOf(names []string, otherwise string) string {
	switch len(names) {
	case 0:
		return otherwise
	case 1:
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}
