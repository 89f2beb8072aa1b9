package sender

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/audatex-relay/relay/internal/relay"
)

// maxCallbacks bounds of how many callbacks something is remembered that is found again when it was forgotten: their
// receivers' certificates, and their tokens.
const maxCallbacks = 16 << 10

// certificates remembers the lives of the receivers' certificates, by callback.
type certificates struct{ lives *lru.Cache[string, life] }

type life struct{ begins, ends time.Time }

func newCertificates() certificates {
	lives, _ := lru.New[string, life](maxCallbacks) // it fails only without a size
	return certificates{lives}
}

// connected notes a new connection of a callback, and refused one that failed because of the receiver's certificate.
func (s certificates) connected(callback string, c *conn) {
	if c.receiver == nil {
		s.lives.Remove(callback)
		return
	}
	s.note(callback, c.receiver.ConnectionState().PeerCertificates)
}

func (s certificates) refused(callback string, err error) {
	s.note(callback, refusedCertificates(err))
}

func (s certificates) note(callback string, presented []*x509.Certificate) {
	if len(presented) > 0 {
		s.lives.Add(callback, life{presented[0].NotBefore, presented[0].NotAfter})
	}
}

// refusedCertificates returns the receiver's certificates that a connection has failed for. Those of the proxy are
// none.
func refusedCertificates(err error) []*x509.Certificate {
	if _, proxy := errors.AsType[*tunnelError](err); proxy {
		return nil
	}
	if failed, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return failed.UnverifiedCertificates
	}
	return nil
}

// CertificateEnds returns when the certificate of a callback's receiver ends, as its last connection showed, if that is
// soon or over. Callback is the Request's.
func (s *Sender) CertificateEnds(callback string, now time.Time) (time.Time, bool) {
	of, known := s.certificates.lives.Peek(callback)
	return of.ends, known && of.ends.Sub(now) < relay.NoticeOfEnd(of.ends.Sub(of.begins))
}

// Forget forgets what is known of a callback: its receiver's certificate, and its token with the credentials for it.
// Callback is the Request's.
func (s *Sender) Forget(callback string) {
	s.certificates.lives.Remove(callback)
	s.tokens.forget(callback)
}
