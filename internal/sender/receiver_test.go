package sender_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// newSender makes a Sender that may reach loopback, and ends it with the test.
func newSender(t testing.TB, change func(*sender.Config)) *sender.Sender {
	t.Helper()
	c := sender.Config{AllowCIDRs: loopback, UserAgent: "audatex-relay/test"}
	if change != nil {
		change(&c)
	}
	s := sender.New(c)
	t.Cleanup(s.Close)
	return s
}

func receiver(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func tlsReceiver(t testing.TB, configure func(*tls.Config), h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{}
	if configure != nil {
		configure(srv.TLS)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func rootsOf(srv *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return pool
}

// rawReceiver accepts connections and hands each to serve, which must return when the connection is
// closed.
func rawReceiver(t testing.TB, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// readRequest reads one request whole, so that the connection can be answered or closed cleanly.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// answering gives back text for every request and then waits for the other side to close.
func answering(text string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for readRequest(r) {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// answeringOnce gives back text for the first request and hangs up.
func answeringOnce(text string) func(net.Conn) {
	return func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) {
			_, _ = io.WriteString(c, text)
		}
	}
}

var testSecret = signature.NewSecret()

func request(url string) sender.Request {
	return sender.Request{
		URL: url, EventID: "evt_1", Body: []byte(`{"id":"evt_1"}`),
		Secrets: []signature.Secret{testSecret}, Timeout: 10 * time.Second,
	}
}
