package audatex

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// theirCertificate is a self-signed certificate for a host, made once for each kind of key.
func theirCertificate(t *testing.T, key any, host string, from, to time.Time) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: from,
		NotAfter: to,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses, template.DNSNames = []net.IP{ip}, nil
	}
	var public any
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		public = &key.PublicKey
	case *rsa.PrivateKey:
		public = &key.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveTLS runs a TLS server and returns its host and port.
func serveTLS(t *testing.T, config *tls.Config) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.TLS = config
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// serveBytes runs a server that reads the beginning of a request, writes something, and ends the
// connection.
func serveBytes(t *testing.T, written string, reset bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.ReadAtLeast(conn, make([]byte, 4096), 5)
				_, _ = io.WriteString(conn, written)
				if tcp, ok := conn.(*net.TCPConn); ok && reset {
					_ = tcp.SetLinger(0)
				}
			})
		}
	})
	return l.Addr().String()
}

// A handshake that fails is reported with its cause and with advice, for all ways to call the
// vendor: a poll, which opens a connection for each call, other calls, and token requests.
func TestFailedHandshakesSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	day := 24 * time.Hour
	good := theirCertificate(t, key, "127.0.0.1", now.Add(-day), now.Add(day))
	rsaGood := theirCertificate(t, rsaKey, "127.0.0.1", now.Add(-day), now.Add(day))
	alert := func(number byte) string { return string([]byte{21, 3, 3, 0, 2, 2, number}) }
	for _, tt := range []struct {
		name, addr string
		fault      HandshakeFault
		says       string
	}{
		{"TLS 1.0 only", serveTLS(t,
			&tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10,
				MaxVersion: tls.VersionTLS10}),
			NoCommonVersion, "no version of TLS that the relay offers, which are 1.2 and 1.3"},
		{"TLS 1.1 only", serveTLS(t,
			&tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10,
				MaxVersion: tls.VersionTLS11}),
			NoCommonVersion, "have TLS 1.2 switched on there"},
		{"RSA key exchange only",
			serveTLS(t, &tls.Config{Certificates: []tls.Certificate{rsaGood}, MaxVersion: tls.VersionTLS12,
				CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}),
			NoCommonCipher, "no cipher suite that the relay offers"},
		{"RC4 only", serveTLS(t, &tls.Config{Certificates: []tls.Certificate{rsaGood}, MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA}}),
			NoCommonCipher, "GODEBUG=tlsrsakex=1"},
		{"insufficient security", serveBytes(t, alert(71), false), NoCommonCipher, "no cipher suite"},
		{"unknown authority", serveTLS(t, &tls.Config{Certificates: []tls.Certificate{good}}),
			UnknownAuthority, "SSL_CERT_FILE"},
		{"expired", serveTLS(t, &tls.Config{Certificates: []tls.Certificate{theirCertificate(t, key, "127.0.0.1",
			now.Add(-3*day), now.Add(-2*day))}}),
			CertificateExpired, "to " + now.Add(-2*day).UTC().Format(time.DateOnly)},
		{"not valid yet", serveTLS(t,
			&tls.Config{Certificates: []tls.Certificate{
				theirCertificate(t, key, "127.0.0.1", now.Add(2*day), now.Add(3*day))}}),
			CertificateExpired, "check the clock of this machine"},
		{"wrong name", serveTLS(t,
			&tls.Config{Certificates: []tls.Certificate{theirCertificate(t, key, "other.example", now.Add(-day),
				now.Add(day))}}),
			WrongName, "for other.example, by "},
		{"a name the server does not know", serveBytes(t, alert(112), false), WrongName, "that of another host"},
		{"a certificate of ours", serveBytes(t, alert(116), false), ClientCertificate,
			"wants a certificate of its client"},
		{"internal error", serveBytes(t, alert(80), false), OtherFault, "internal error"},
		{"plain HTTP", serveBytes(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", false), NotTLS,
			"does not speak TLS; check scheme and port"},
		{"another protocol", serveBytes(t, "220 mail.example ESMTP ready\r\n", false), NotTLS, "does not speak TLS"},
		{"nothing", serveBytes(t, "", false), EndedUnexplained, "Windows servers do so"},
		{"reset", serveBytes(t, "", true), EndedUnexplained, "ended the connection without a word"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log logBuffer
			c, err := New(Config{BaseURL: "https://" + tt.addr, Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, poll := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
			_, whoami := c.Whoami(t.Context(), testToken)
			m := tokens(t, http.NotFoundHandler(), newTokenMap(leeds, freshRecord()), func(c *TokensConfig) {
				c.TokenURL, c.DialContext, c.Logger = "https://"+tt.addr, nil, log.logger()
			})
			_, refresh := m.Access(t.Context(), leeds)
			for call, err := range map[string]error{"poll": poll, "whoami": whoami, "refresh": refresh} {
				failed, ok := errors.AsType[*HandshakeError](err)
				if !ok || failed.Fault != tt.fault {
					t.Errorf("%s: %v is no handshake with fault %d", call, err, tt.fault)
				}
				if says := err.Error(); !strings.Contains(says, "TLS handshake failed: ") ||
					!strings.Contains(says, tt.says) ||
					len(says) > 1200 {
					t.Errorf("%s: %s", call, says)
				}
				if e, ok := errors.AsType[*Error](err); !ok || e.AnswerLost || e.Outcome != Unavailable {
					t.Errorf("%s: %+v", call, e)
				}
			}
			if !strings.Contains(log.String(), tt.says) {
				t.Errorf("the log says %s", log.String())
			}
		})
	}
}

// Failures without a handshake, or after it, are not reported as failures of the handshake.
func TestOtherFailuresAreNoHandshakes(t *testing.T) {
	t.Parallel()
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refused.Close()
	for name, base := range map[string]string{
		"refused": "https://" + refused.Addr().String(), "cut without TLS": "http://" + serveBytes(t, "", false),
	} {
		c, err := New(Config{BaseURL: base, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		_, poll := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		_, whoami := c.Whoami(t.Context(), testToken)
		c.Close()
		for _, err := range []error{poll, whoami} {
			if _, ok := errors.AsType[*HandshakeError](err); ok || err == nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := New(Config{BaseURL: "https://" + serveBytes(t, "", false), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Whoami(ctx, testToken); errors.As(err, new(*HandshakeError)) || !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

// A server that accepts connections and never responds is reported as a handshake that was not
// finished in time.
func TestHandshakeThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			return near, nil
		}
		c, err := New(Config{BaseURL: "https://vendor.test", Logger: quiet, DialContext: dial})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := time.Now()
		_, poll := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		_, whoami := c.Whoami(t.Context(), testToken)
		for _, err := range []error{poll, whoami} {
			if failed, ok := errors.AsType[*HandshakeError](err); !ok || failed.Fault != HandshakeTimeout {
				t.Errorf("%v", err)
			}
		}
		if took := time.Since(start); took != 2*handshakeTimeout {
			t.Errorf("took %s", took)
		}
	})
}
