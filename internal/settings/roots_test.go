package settings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// authority returns a certificate in PEM, and its key.
func authority(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func TestAuthoritiesOfCallbacks(t *testing.T) {
	t.Parallel()
	one, key := authority(t)
	two, _ := authority(t)
	broken := strings.Replace(two, "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAAAA", 1)
	for _, c := range []struct{ content, want string }{
		{"# our own\n" + one + "\nthe next one\n" + two + "\n", ""},
		{"", "RELAY_CALLBACK_CA_FILE: the file holds no certificate in PEM"},
		{"certificates", "RELAY_CALLBACK_CA_FILE: the file holds no certificate in PEM"},
		{one + key, "RELAY_CALLBACK_CA_FILE: block 2 of the file is no certificate: it may hold certificates of " +
			"authorities only"},
		{one + broken, "RELAY_CALLBACK_CA_FILE: certificate 2 of the file cannot be read"},
		{one + two[:len(two)-30], "RELAY_CALLBACK_CA_FILE: what follows certificate 1 of the file cannot be read"},
		{strings.Repeat("#", maxRoots+1), "RELAY_CALLBACK_CA_FILE: the file is larger than 4194304 bytes"},
	} {
		config, err := given(t, "--callback-ca-file="+secretFile(t, c.content)).Check()
		if c.want == "" {
			system, _ := x509.SystemCertPool()
			if err != nil || config.Roots == nil || config.Roots.Equal(system) {
				t.Errorf("two authorities: %v", err)
			}
			continue
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%.40q: %v, want %s", c.content, err, c.want)
		}
	}
	if config, err := given(t).Check(); err != nil || config.Roots != nil {
		t.Errorf("without a file: %v", err)
	}
}

func TestAuthoritiesOfNATS(t *testing.T) {
	t.Parallel()
	one, _ := authority(t)
	for _, c := range []struct{ content, want string }{
		{one, ""},
		{strings.Repeat("\n", maxRoots-len(one)) + one, ""},
		{strings.Repeat("\n", maxRoots-len(one)+1) + one, "RELAY_NATS_CA: the file is larger than 4194304 bytes"},
	} {
		s := given(t, "--nats-url=tls://a:4222", "--nats-ca="+secretFile(t, c.content))
		s.EncryptionKeys = "{}" // a cluster needs them; they are read later
		if _, err := s.Check(); (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
			t.Errorf("of %d bytes: %v, want %q", len(c.content), err, c.want)
		}
	}
}
