package sender

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/signature"
)

// The limits of the phases, made short: what stalls in one ends by that phase's limit, not by the
// attempt's.
func TestPhaseLimits(t *testing.T) {
	t.Parallel()
	const short = 50 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // a name server that never responds
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); silent.Close(); <-accepted })

	// Go's resolver waits for a name server up to five seconds though nobody waits for it any more;
	// not so this test.
	asking, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	s := New(Config{AllowCIDRs: prefixes(t, "127.0.0.0/8"),
		Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "udp", silent.LocalAddr().String())
			if err == nil {
				context.AfterFunc(asking, func() { conn.Close() })
			}
			return conn, err
		}}})
	t.Cleanup(s.Close)
	s.dialer.tlsTimeout, s.dialer.connectTimeout = short, short
	r := Request{EventID: "e", Body: []byte("{}"), Secrets: []signature.Secret{signature.NewSecret()},
		Timeout: 20 * time.Second}

	r.URL = "https://" + l.Addr().String()
	if a := s.Send(t.Context(), r); a.Outcome != TLSFailed || !strings.HasPrefix(a.Error, "no TLS handshake") ||
		a.Duration > 10*time.Second {
		t.Errorf("handshake stalls: %+v", a)
	}
	r.URL = "https://slow.example/"
	if a := s.Send(t.Context(), r); a.Outcome != ConnectFailed || a.Duration > 10*time.Second {
		t.Errorf("look-up stalls: %+v", a)
	}
}

// Close ends and awaits a dial that its attempt has left behind.
func TestCloseEndsDials(t *testing.T) {
	t.Parallel()
	dialing := make(chan struct{})
	s := New(Config{Resolver: &net.Resolver{PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case dialing <- struct{}{}:
			case <-ctx.Done():
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}})
	ctx, cancel := context.WithCancel(t.Context())
	r := Request{URL: "https://slow.example/", EventID: "e", Body: []byte("{}"),
		Secrets: []signature.Secret{signature.NewSecret()}}
	ended := make(chan Attempt)
	go func() { ended <- s.Send(ctx, r) }()
	<-dialing
	cancel()
	if a := <-ended; a.Outcome != Cancelled {
		t.Errorf("%+v", a)
	}
	s.Close()
	s.Close() // again does no harm
	if _, _, err := s.dialer.begin(t.Context()); err == nil {
		t.Error("dialled after Close")
	}
}
