package night

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// receiver is a customer's server. What it responds, how much it takes and which certificate it shows can be changed.
type receiver struct {
	*front

	status atomic.Int32
	busy   atomic.Bool  // it responds with 429 to every second request: it asks for less, and does not fail
	came   atomic.Int64 // while it was busy
	shows  atomic.Pointer[tls.Certificate]
	takes  atomic.Int64 // for each request so long, a time.Duration
}

// newReceiver takes everything that comes. With an authority it speaks TLS.
func newReceiver(t testing.TB, by *authority) *receiver {
	t.Helper()
	r := &receiver{}
	r.status.Store(http.StatusNoContent)
	var secured *tls.Config
	if by != nil {
		r.shows.Store(by.certificate(t, 365*24*time.Hour))
		secured = &tls.Config{MinVersion: tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return r.shows.Load(), nil
			}}
	}
	r.front = newFront(t, r, secured)
	return r
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	_, _ = io.Copy(io.Discard, req.Body)
	pass(time.Duration(r.takes.Load()))
	if r.busy.Load() && r.came.Add(1)%2 == 0 {
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	w.WriteHeader(int(r.status.Load()))
}

// url is where its callback goes.
func (r *receiver) url() string {
	if r.tls != nil {
		return "https://" + r.addr + "/hooks"
	}
	return "http://" + r.addr + "/hooks"
}

// reconnect ends the connections, so that the certificate is shown again.
func (r *receiver) reconnect() {
	r.close()
	r.open()
}

// authority signs receivers' certificates.
type authority struct {
	file string // RELAY_CALLBACK_CA_FILE
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "receivers"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().AddDate(-1, 0, 0),
		NotAfter: time.Now().AddDate(2, 0, 0),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(signed)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{file: filepath.Join(t.TempDir(), "ca.pem"), cert: cert, key: key}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}),
		0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// certificate returns one that ends after a time, which may have passed.
func (a *authority) certificate(t testing.TB, ends time.Duration) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: time.Now().AddDate(0, -6, 0),
		NotAfter: time.Now().Add(ends),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
}
