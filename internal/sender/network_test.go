package sender_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/sender"
)

// nameServer starts a DNS server on loopback. For each name it returns the next IPv4 address of a
// table's list, and in the end always the last. nameServer returns a resolver that uses it.
func nameServer(t *testing.T, table map[string][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		asked := map[string]int{}
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := answerQuery(buf[:n], table, asked); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answerQuery returns the response to a question for an A record. Other types have no records, and an
// unknown name does not exist.
func answerQuery(query []byte, table map[string][]string, asked map[string]int) []byte {
	if len(query) < 17 {
		return nil
	}
	var labels []string
	at := 12
	for query[at] != 0 {
		end := at + 1 + int(query[at])
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	name := strings.ToLower(strings.Join(labels, "."))
	at += 5 // the root label, type and class
	kind := binary.BigEndian.Uint16(query[at-4:])
	out := append([]byte(nil), query[:at]...)
	out[2], out[3] = 0x84|query[2]&1, 0x80
	for i := 6; i < 12; i++ {
		out[i] = 0
	}
	addrs, ok := table[name]
	if !ok {
		out[3] |= 3 // NXDOMAIN
		return out
	}
	if kind == 1 {
		i := min(asked[name], len(addrs)-1)
		asked[name]++
		four := netip.MustParseAddr(addrs[i]).As4()
		out[7] = 1
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		out = append(out, four[:]...)
	}
	return out
}

func portOf(t *testing.T, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestAddressIsJudgedWhenDialled(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	count := func(http.ResponseWriter, *http.Request) { requests.Add(1) }
	plain, secure := receiver(t, count), tlsReceiver(t, nil, count)
	resolver := nameServer(t, map[string][]string{
		"inside.example":   {"127.0.0.1"},
		"metadata.example": {"169.254.169.254"},
		"lan.example":      {"10.9.8.7"},
	})
	strict := newSender(t, func(c *sender.Config) {
		c.AllowCIDRs = nil
		c.Resolver = resolver
		c.RootCAs = rootsOf(secure)
	})
	for _, target := range []string{
		plain.URL, secure.URL,
		"http://localhost:" + portOf(t, plain.URL), "https://localhost:" + portOf(t, secure.URL),
		"http://inside.example:" + portOf(t, plain.URL), "https://inside.example:" + portOf(t, secure.URL),
		"https://metadata.example/latest/", "https://lan.example/", "https://10.9.8.7/", "https://[fe80::1]/",
		"https://[64:ff9b::7f00:1]:" + portOf(t, secure.URL), "https://0.0.0.0:" + portOf(t, secure.URL),
		"https://[::ffff:127.0.0.1]:" + portOf(t, secure.URL),
	} {
		a := strict.Send(t.Context(), request(target))
		if a.Outcome != sender.AddressRefused || a.Status != 0 || a.RemoteAddr.IsValid() {
			t.Errorf("%s: %+v", target, a)
		}
		if strings.Contains(a.Error, "10.9") || strings.Contains(a.Error, "127.0") {
			t.Errorf("%s: the error tells where the name leads: %s", target, a.Error)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests reached loopback", n)
	}
	// A public address by plain http: refused before anything is sent to it.
	public := nameServer(t, map[string][]string{"public.example": {"8.8.8.8"}})
	open := newSender(t, func(c *sender.Config) { c.Resolver = public })
	if a := open.Send(t.Context(), request("http://public.example/")); a.Outcome != sender.AddressRefused ||
		!strings.Contains(a.Error, "plain http") {
		t.Errorf("public by http: %+v", a)
	}
	// And the same names are reached when their network is allowed.
	allowed := newSender(t, func(c *sender.Config) { c.Resolver = resolver })
	if a := allowed.Send(t.Context(),
		request("http://inside.example:"+portOf(t, plain.URL))); a.Outcome != sender.Success {
		t.Errorf("allowed: %+v", a)
	}
}

// A name that leads to an allowed address at first and elsewhere later is judged by where it leads
// each time.
func TestNameThatIsBoundAgain(t *testing.T) {
	t.Parallel()
	srv := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	resolver := nameServer(t, map[string][]string{"moving.example": {"127.0.0.1", "127.0.0.9", "127.0.0.1"}})
	s := newSender(t, func(c *sender.Config) {
		c.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		c.Resolver = resolver
	})
	for i, want := range []sender.Outcome{sender.Success, sender.AddressRefused, sender.Success} {
		if a := s.Send(t.Context(), request("http://moving.example:"+portOf(t, srv.URL))); a.Outcome != want {
			t.Errorf("attempt %d: %+v, want %v", i, a, want)
		}
	}
}

func TestNameNotFound(t *testing.T) {
	t.Parallel()
	s := newSender(t, func(c *sender.Config) { c.Resolver = nameServer(t, nil) })
	if a := s.Send(t.Context(), request("https://nowhere.example/")); a.Outcome != sender.ConnectFailed ||
		a.Error != "the receiver: name not found" {
		t.Errorf("%+v", a)
	}
}

// Not parallel: it sets the environment. net/http reads it once for the process, so this also has
// to be the only test that a proxy of the environment could be read by; the other tests use none
// because Transport.Proxy is nil.
func TestEnvironmentProxiesAreIgnored(t *testing.T) {
	var asked atomic.Int32
	proxy := receiver(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	t.Setenv("NO_PROXY", "")
	// Loopback and localhost never go to a proxy of the environment: only a name shows the
	// difference.
	srv := receiver(t, func(http.ResponseWriter, *http.Request) {})
	resolver := nameServer(t, map[string][]string{"bms.example": {"127.0.0.1"}})
	target := "http://bms.example:" + portOf(t, srv.URL)
	s := newSender(t, func(c *sender.Config) { c.Resolver = resolver })
	if a := s.Send(t.Context(), request(target)); a.Outcome != sender.Success || asked.Load() != 0 {
		t.Errorf("%+v, the proxy was asked %d times", a, asked.Load())
	}
	// The environment does mean something to who listens to it.
	req := httptest.NewRequest(http.MethodPost, target, nil)
	if u, err := http.ProxyFromEnvironment(req); err != nil || u == nil {
		t.Errorf("the test proves nothing: %v, %v", u, err)
	}
}

// connectProxy is an HTTP proxy that counts, and forwards by CONNECT and by absolute URL to one
// address.
func connectProxy(t *testing.T, secureTo, plainTo string) (proxy *url.URL, connects, forwards *atomic.Int32) {
	t.Helper()
	connects, forwards = new(atomic.Int32), new(atomic.Int32)
	addr := rawReceiver(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Proxy-Authorization") != "Basic dTpw" {
			_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return
		}
		to := secureTo
		if req.Method != http.MethodConnect {
			to = plainTo
			forwards.Add(1)
		} else {
			connects.Add(1)
		}
		up, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer up.Close()
		if req.Method == http.MethodConnect {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		} else {
			req.Header.Del("Proxy-Authorization")
			if err := req.Write(up); err != nil {
				return
			}
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(c, up)
			c.Close()
		}()
		_, _ = io.Copy(up, r)
		up.Close()
		<-ended
	})
	return &url.URL{Scheme: "http", Host: addr, User: url.UserPassword("u", "p")}, connects, forwards
}

func TestProxy(t *testing.T) {
	t.Parallel()
	secure := tlsReceiver(t, func(*tls.Config) {}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the receiver was told the proxy's password")
		}
	})
	plain := receiver(t, func(http.ResponseWriter, *http.Request) {})
	proxy, connects, forwards := connectProxy(t, secure.Listener.Addr().String(), plain.Listener.Addr().String())
	resolver := nameServer(t,
		map[string][]string{"example.com": {"93.184.215.14"}, "lan.example": {"10.9.8.7"},
			"ok.lan.example": {"10.1.1.1"}})
	s := newSender(t, func(c *sender.Config) {
		c.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")} // not the proxy's own address
		c.Proxy, c.Resolver, c.RootCAs = proxy, resolver, rootsOf(secure)
	})
	for range 3 {
		if a := s.Send(t.Context(), request("https://example.com/hook")); a.Outcome != sender.Success ||
			a.RemoteAddr.String() != proxy.Host {
			t.Errorf("%+v", a)
		}
	}
	if n := connects.Load(); n != 1 {
		t.Errorf("%d connections through the proxy", n)
	}
	if a := s.Send(t.Context(), request("http://ok.lan.example/hook")); a.Outcome != sender.Success ||
		forwards.Load() != 1 {
		t.Errorf("%+v", a)
	}
	for target, want := range map[string]sender.Outcome{
		"https://lan.example/": sender.AddressRefused, "http://lan.example/": sender.AddressRefused,
		"https://10.9.8.7/":   sender.AddressRefused,
		"http://example.com/": sender.AddressRefused, "https://127.0.0.1/": sender.AddressRefused,
		"https://nowhere.example/": sender.ConnectFailed,
		"https://ok.lan.example/":  sender.TLSFailed, // the certificate is for example.com
	} {
		if a := s.Send(t.Context(), request(target)); a.Outcome != want {
			t.Errorf("%s: %+v, want %v", target, a, want)
		}
	}

	t.Run("refuses", func(t *testing.T) {
		t.Parallel()
		wrong := *proxy
		wrong.User = url.UserPassword("u", "sekret-password")
		s := newSender(t, func(c *sender.Config) { c.Proxy, c.Resolver = &wrong, resolver })
		a := s.Send(t.Context(), request("https://example.com/hook"))
		if a.Outcome != sender.ConnectFailed || a.Error != "the proxy answered CONNECT with 407" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("is down", func(t *testing.T) {
		t.Parallel()
		s := newSender(t, func(c *sender.Config) {
			c.Proxy, c.Resolver = &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, resolver
		})
		a := s.Send(t.Context(), request("https://example.com/hook"))
		if a.Outcome != sender.ConnectFailed || a.Error != "the proxy: connection refused" {
			t.Errorf("%+v", a)
		}
	})
	t.Run("hangs up", func(t *testing.T) {
		t.Parallel()
		addr := rawReceiver(t, func(c net.Conn) { readRequest(bufio.NewReader(c)) })
		s := newSender(t, func(c *sender.Config) {
			c.Proxy, c.Resolver = &url.URL{Scheme: "http", Host: addr}, resolver
		})
		if a := s.Send(t.Context(), request("https://example.com/hook")); a.Outcome != sender.ConnectFailed {
			t.Errorf("%+v", a)
		}
	})
	t.Run("of an unknown kind", func(t *testing.T) {
		t.Parallel()
		for _, raw := range []string{"socks5://127.0.0.1:1080", "ftp://127.0.0.1", "http://", "http://h/path",
			"http://h?q=1"} {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if sender.CheckProxy(u) == nil {
				t.Errorf("%s is a proxy", raw)
			}
			s := newSender(t, func(c *sender.Config) { c.Proxy, c.Resolver = u, resolver })
			if a := s.Send(t.Context(), request("https://example.com/hook")); a.Outcome != sender.ConnectFailed {
				t.Errorf("%s: %+v", raw, a)
			}
		}
		if err := sender.CheckProxy(proxy); err != nil {
			t.Error(err)
		}
	})
}
