package natsd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
)

// With a certificate subscribers are served by TLS, and nobody logs in without it.
func TestSubscribersByTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	trusted := issue(t, dir)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	server, err := natsd.Start(natsd.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", ListenCert: cert, ListenKey: key,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	keys := access.New(access.Config{Log: slog.New(slog.DiscardHandler)})
	text, stored := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
	keys.Put(relay.Client{ID: "a", Sites: []string{"leeds"}, Keys: []relay.Key{stored}}, 1)
	server.Admit(keys)
	nc, err := nats.Connect("tls://"+server.Addr(), nats.UserInfo(stored.ID, text),
		nats.Secure(&tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}))
	if err != nil {
		t.Fatal(err)
	}
	if state, err := nc.TLSConnectionState(); err != nil || state.Version < tls.VersionTLS12 {
		t.Errorf("%+v, %v", state, err)
	}
	nc.Close()
	if nc, err := nats.Connect("tls://"+server.Addr(), nats.UserInfo(stored.ID, text)); err == nil {
		nc.Close()
		t.Error("a certificate of an unknown authority was taken")
	}
	own, err := server.Connect() // the relay itself is in the same process: nothing is on a wire
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	for _, files := range [][2]string{{cert, ""}, {"", key}, {key, cert}, {filepath.Join(dir, "none.pem"), key}} {
		_, err := natsd.Start(natsd.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", ListenCert: files[0],
			ListenKey: files[1],
			Log:       slog.New(slog.DiscardHandler)})
		if !errors.Is(err, natsd.ErrCertificate) {
			t.Errorf("%v: %v", files, err)
		}
	}
}

// issue creates a CA and a certificate for servers and routes, as files, and returns the pool that
// trusts them.
func issue(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}),
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey, ownKey := key(), key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	ownDER, err := x509.CreateCertificate(rand.Reader, own, ca, ownKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", caDER)
	write("cert.pem", "CERTIFICATE", ownDER)
	write("key.pem", "PRIVATE KEY", keyDER)
	parsed, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return pool
}
