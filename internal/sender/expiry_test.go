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

// The certificate of a receiver is shown once it ends soon or has ended, also where it is refused for that, and where
// nobody has connected since: soon is 30 days before, and for a short life its last quarter.
func TestCertificatesThatEnd(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var present tls.Certificate
	roots := x509.NewCertPool()
	issue := func(begins, ends time.Time) {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(ends.Unix()), NotBefore: begins, NotAfter: ends,
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
	const day = 24 * time.Hour
	for _, c := range []struct {
		life, left time.Duration
		outcome    sender.Outcome
		after      time.Duration // no other connection is made until then
		shown      bool
	}{
		{life: 365 * day, left: 29 * day, outcome: sender.Success, shown: true},
		{life: 365 * day, left: 90 * day, outcome: sender.Success, shown: false},
		{life: 365 * day, left: 90 * day, outcome: sender.Success, after: 70 * day, shown: true},
		{life: 365 * day, left: -time.Hour, outcome: sender.TLSFailed, shown: true},
		{life: 6 * day, left: 5 * day, outcome: sender.Success, shown: false}, // it is replaced every three days
		{life: 6 * day, left: day, outcome: sender.Success, shown: true},
	} {
		now := time.Now()
		ends := now.Add(c.left).Truncate(time.Second)
		issue(ends.Add(-c.life), ends)
		srv := tlsReceiver(t, func(config *tls.Config) {
			config.Certificates = []tls.Certificate{present}
		}, func(http.ResponseWriter, *http.Request) {})
		s := newSender(t, func(conf *sender.Config) { conf.RootCAs = roots })
		if a := s.Send(t.Context(), request(srv.URL)); a.Outcome != c.outcome {
			t.Errorf("%+v: %v, %s", c, a.Outcome, a.Error)
		}
		callback := request(srv.URL).Callback
		if at, shown := s.CertificateEnds(callback, now.Add(c.after)); shown != c.shown || shown && !at.Equal(ends) {
			t.Errorf("%+v is shown: %t, %s", c, shown, at)
		}
		s.Forget(callback)
		if _, shown := s.CertificateEnds(callback, now.AddDate(100, 0, 0)); shown {
			t.Errorf("%+v is shown of a callback that is gone", c)
		}
	}
}
