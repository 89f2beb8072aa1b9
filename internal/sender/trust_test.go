package sender_test

import (
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/audatex-relay/relay/internal/sender"
)

// Authorities can be replaced at any time: what the former ones vouched for, also a connection that
// is kept or a session that could be resumed, counts no longer.
func TestAuthoritiesAreReplaced(t *testing.T) {
	t.Parallel()
	bms := tlsReceiver(t, nil, func(http.ResponseWriter, *http.Request) {})
	none := x509.NewCertPool()
	s := newSender(t, func(c *sender.Config) { c.RootCAs = none })
	for _, c := range []struct {
		roots   *x509.CertPool
		changed bool
		want    sender.Outcome
	}{
		{none, false, sender.TLSFailed},
		{rootsOf(bms), true, sender.Success},
		{rootsOf(bms), false, sender.Success},
		{x509.NewCertPool(), true, sender.TLSFailed},
		{rootsOf(bms), true, sender.Success},
		{nil, true, sender.TLSFailed},
	} {
		if changed := s.Trust(c.roots); changed != c.changed {
			t.Errorf("changed: %t", changed)
		}
		if a := s.Send(t.Context(), request(bms.URL)); a.Outcome != c.want {
			t.Errorf("%+v, want %s", a, c.want)
		}
	}
}
