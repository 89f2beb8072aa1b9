package sender

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// dialError means that a connection could not be made.
type dialError struct {
	err    error
	proxy  bool // the proxy was dialled
	status int  // the proxy's response to CONNECT
}

func (e *dialError) Error() string { return fmt.Sprintf("dial: %v", e.err) }
func (e *dialError) Unwrap() error { return e.err }

// tlsError means that a TLS handshake failed.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return fmt.Sprintf("TLS handshake: %v", e.err) }
func (e *tlsError) Unwrap() error { return e.err }

// tunnelError means that the proxy's response to CONNECT was not valid.
type tunnelError struct{ err error }

func (e *tunnelError) Error() string { return fmt.Sprintf("CONNECT: %v", e.err) }
func (e *tunnelError) Unwrap() error { return e.err }

// dialer connects to receivers whose address the policy allows, or to the proxy.
type dialer struct {
	policy   policy
	resolver *net.Resolver
	proxy    *url.URL                   // nil: none
	tls      atomic.Pointer[tls.Config] // without a server's name; see Sender.Trust

	// The time limits of looking up a name and connecting, and of the TLS handshake.
	connectTimeout, tlsTimeout time.Duration

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	mu     sync.Mutex // orders run.Add before run.Wait
	run    sync.WaitGroup
}

func newDialer(p policy, resolver *net.Resolver, proxy *url.URL, config *tls.Config) *dialer {
	d := &dialer{
		policy: p, resolver: resolver, proxy: proxy, connectTimeout: dialTimeout, tlsTimeout: tlsTimeout,
	}
	d.tls.Store(config)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// close cancels the dials under way and waits for them. Nothing can be dialled afterwards.
func (d *dialer) close() {
	d.mu.Lock()
	d.cancel()
	d.mu.Unlock()
	d.run.Wait()
}

// begin registers a dial. The returned context ends with ctx, when the dialer is closed, or when
// done is called.
func (d *dialer) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return nil, nil, errClosed
	}
	d.run.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(d.ctx, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		d.run.Done()
	}, nil
}

// connect returns a new connection over which requests to the target can be sent.
func (d *dialer) connect(ctx context.Context, target *url.URL, k key, p *Phases) (*conn, error) {
	ctx, done, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := d.reach(ctx, target, k, p)
	return c, orCause(ctx, err)
}

func (d *dialer) reach(ctx context.Context, target *url.URL, k key, p *Phases) (*conn, error) {
	plain := target.Scheme == "http"
	if d.proxy == nil {
		c, err := d.dial(ctx, hostPort(target), plain, p)
		if err != nil {
			return nil, err
		}
		c.key = k
		return d.prepare(ctx, c, func() error {
			if plain {
				return nil
			}
			return d.handshakeReceiver(c, target.Hostname(), p)
		})
	}

	if err := CheckProxy(d.proxy); err != nil {
		return nil, &dialError{err: err, proxy: true}
	}
	if err := d.judgeName(ctx, target.Hostname(), plain, p); err != nil {
		return nil, err
	}
	c, err := d.dial(ctx, hostPort(d.proxy), plain, p)
	if err != nil {
		return nil, err
	}
	c.key = k
	return d.prepare(ctx, c, func() error {
		if d.proxy.Scheme == "https" {
			if err := d.handshake(c, d.proxy.Hostname(), p); err != nil {
				return &tunnelError{err}
			}
		}
		if plain {
			return nil
		}
		if err := d.tunnel(c, hostPort(target)); err != nil {
			return err
		}
		return d.handshakeReceiver(c, target.Hostname(), p)
	})
}

// dial connects to an address and judges it, unless it is the proxy's.
func (d *dialer) dial(ctx context.Context, address string, plain bool, p *Phases) (*conn, error) {
	// Every connection's address is judged when its socket exists and nothing has been sent. What
	// the name resolved to a moment ago, or for somebody else, does not count.
	control := func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return &AddressError{Kind: "an address that cannot be read"}
		}
		return d.policy.judge(to.Addr(), plain)
	}
	nd := net.Dialer{Timeout: d.connectTimeout, Resolver: d.resolver, Control: control}
	if d.proxy != nil {
		nd.Control = nil
	}
	begun, looked := time.Now(), p.DNS
	tcp, err := nd.DialContext(p.traced(ctx), "tcp", address)
	p.Connect += time.Since(begun) - (p.DNS - looked)
	if err != nil {
		return nil, &dialError{err: err, proxy: d.proxy != nil}
	}
	w, err := newWire(tcp.(*net.TCPConn))
	if err != nil {
		tcp.Close()
		return nil, &dialError{err: err}
	}
	c := &conn{wire: w, rw: w}
	if addr, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		to := addr.AddrPort()
		c.remote = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	}
	return c, nil
}

// prepare runs do on a new connection, before a request can be sent. If do fails, or ctx ends, the
// connection is closed.
func (d *dialer) prepare(ctx context.Context, c *conn, do func() error) (*conn, error) {
	stop := context.AfterFunc(ctx, c.wire.abort)
	err := do()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.wire.Close() // at once: nothing was sent that needs a proper end
		c.close()
		return nil, err
	}
	return c, nil
}

// handshakeReceiver is the handshake with the receiver, after that with the proxy if there is one.
func (d *dialer) handshakeReceiver(c *conn, host string, p *Phases) error {
	err := d.handshake(c, host, p)
	if err == nil {
		c.receiver = c.rw.(*tls.Conn)
	}
	return err
}

// handshake puts TLS on top of a connection. It has a time limit of its own.
func (d *dialer) handshake(c *conn, host string, p *Phases) error {
	c.trust = d.tls.Load()
	config := c.trust.Clone()
	config.ServerName = host
	begun := time.Now()
	c.wire.setDeadline(begun.Add(d.tlsTimeout))
	c.wire.patient = true
	defer func() {
		c.wire.patient = false
		p.TLS += time.Since(begun)
	}()
	if err := c.secure(config); err != nil {
		return &tlsError{err}
	}
	c.wire.setDeadline(time.Time{})
	return nil
}

// trusts reports whether a connection was made with the present authorities.
func (d *dialer) trusts(c *conn) bool { return c.trust == nil || c.trust == d.tls.Load() }

// tunnel asks the proxy for a connection to the receiver.
func (d *dialer) tunnel(c *conn, address string) error {
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if authorization := proxyAuthorization(d.proxy); authorization != "" {
		request += "Proxy-Authorization: " + authorization + "\r\n"
	}
	if _, err := c.rw.Write([]byte(request + "\r\n")); err != nil {
		return &tunnelError{err}
	}
	r := newReader(c.rw)
	defer r.free()
	var h head
	if err := r.readStatus(&h); err != nil {
		return &tunnelError{err}
	}
	if h.status < 200 || h.status > 299 {
		return &dialError{err: fmt.Errorf("status %d", h.status), proxy: true, status: h.status}
	}
	if err := r.readHead(&h); err != nil {
		return &tunnelError{err}
	}
	if r.buffered() > 0 {
		return &tunnelError{errStray}
	}
	return nil
}

// proxyAuthorization returns the header value that authenticates us at the proxy, or "" if there is
// none.
func proxyAuthorization(proxy *url.URL) string {
	if proxy == nil || proxy.User == nil {
		return ""
	}
	password, _ := proxy.User.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password))
}

// hostPort returns the address to dial for a URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// judgeName judges every address of a host, because the proxy may use any of them. For https that
// happens once for each connection, because its requests go through a tunnel to one address; for
// http it happens for each request.
func (d *dialer) judgeName(ctx context.Context, host string, plain bool, p *Phases) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		return d.policy.judge(addr, plain)
	}
	ctx, cancel := context.WithTimeout(ctx, d.connectTimeout)
	defer cancel()
	begun := time.Now()
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", host)
	p.DNS += time.Since(begun)
	if err != nil {
		return &dialError{err: err}
	}
	for _, addr := range addrs {
		if err := d.policy.judge(addr.Unmap(), plain); err != nil {
			return err
		}
	}
	return nil
}
