package sender

import (
	"crypto/tls"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Certificates that end within endsSoon are remembered, of this many callbacks. A forgotten one is noted again with the
// next connection.
const (
	endsSoon    = 30 * 24 * time.Hour
	maxExpiring = 16 << 10
)

// certificates remembers the certificates of receivers that end soon, or have ended, by callback.
type certificates struct{ ends *lru.Cache[string, time.Time] }

func newCertificates() certificates {
	ends, _ := lru.New[string, time.Time](maxExpiring) // it fails only without a size
	return certificates{ends}
}

// connected notes a new connection of a callback, and refused one that failed because of the receiver's certificate.
func (s certificates) connected(callback string, c *conn) {
	secured, ok := c.rw.(*tls.Conn)
	if !ok {
		s.ends.Remove(callback)
		return
	}
	s.note(callback, secured.ConnectionState())
}

func (s certificates) refused(callback string, err error) {
	if _, proxy := errors.AsType[*tunnelError](err); proxy {
		return
	}
	if failed, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		s.note(callback, tls.ConnectionState{PeerCertificates: failed.UnverifiedCertificates})
	}
}

func (s certificates) note(callback string, shown tls.ConnectionState) {
	if len(shown.PeerCertificates) == 0 {
		return
	}
	if ends := shown.PeerCertificates[0].NotAfter; time.Until(ends) < endsSoon {
		s.ends.Add(callback, ends)
	} else {
		s.ends.Remove(callback)
	}
}

// CertificateEnds returns when the certificate of a callback's receiver ends, as its last connection showed, if that is
// within 30 days or over. Callback is the Request's.
func (s *Sender) CertificateEnds(callback string) (time.Time, bool) {
	return s.certificates.ends.Peek(callback)
}
