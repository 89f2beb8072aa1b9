package sender_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sender"
)

// The certificate of a receiver is remembered while it ends soon or has ended, also where it is refused for that, until the
// receiver has another one.
func TestCertificatesThatEnd(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var present tls.Certificate
	roots := x509.NewCertPool()
	issue := func(ends time.Time) {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(ends.Unix()), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: ends,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		present = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		if parsed, err := x509.ParseCertificate(der); err == nil {
			roots.AddCert(parsed)
		}
	}
	for _, c := range []struct {
		in      time.Duration
		outcome sender.Outcome
		shown   bool
	}{
		{10 * 24 * time.Hour, sender.Success, true}, {90 * 24 * time.Hour, sender.Success, false},
		{-time.Hour, sender.TLSFailed, true}, {29 * 24 * time.Hour, sender.Success, true},
	} {
		ends := time.Now().Add(c.in).Truncate(time.Second)
		issue(ends)
		srv := tlsReceiver(t, func(config *tls.Config) {
			config.Certificates = []tls.Certificate{present}
		}, func(http.ResponseWriter, *http.Request) {})
		s := newSender(t, func(c *sender.Config) { c.RootCAs = roots })
		if a := s.Send(t.Context(), request(srv.URL)); a.Outcome != c.outcome {
			t.Errorf("one that ends in %s: %v, %s", c.in, a.Outcome, a.Error)
		}
		if at, shown := s.CertificateEnds(request(srv.URL).Callback); shown != c.shown || shown && !at.Equal(ends) {
			t.Errorf("one that ends in %s is shown: %t, %s", c.in, shown, at)
		}
	}
}
