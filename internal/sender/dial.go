package sender

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
)

// dialError is a connection that did not come about.
type dialError struct {
	err    error
	proxy  bool // it is the proxy that was dialled
	status int  // what the proxy answered to CONNECT
}

func (e *dialError) Error() string { return fmt.Sprintf("dial: %v", e.err) }
func (e *dialError) Unwrap() error { return e.err }

// dialer connects to receivers whose address the policy lets through, or to the proxy.
type dialer struct {
	policy   policy
	resolver *net.Resolver
	proxy    *url.URL // nil: none
	net      net.Dialer

	// net/http lets a dial go on when its attempt has ended; close ends these and waits for them.
	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // orders run.Add before run.Wait
	run    sync.WaitGroup
}

func newDialer(p policy, resolver *net.Resolver, proxy *url.URL) *dialer {
	d := &dialer{policy: p, resolver: resolver, proxy: proxy}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.net = net.Dialer{Timeout: dialTimeout, Resolver: resolver}
	if proxy == nil {
		d.net.ControlContext = d.control
	}
	return d
}

func (d *dialer) close() {
	d.mu.Lock()
	d.cancel()
	d.mu.Unlock()
	d.run.Wait()
}

// dial is the transport's: to the receiver, or to the proxy if there is one.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	if err := d.ctx.Err(); err != nil {
		d.mu.Unlock()
		return nil, &dialError{err: err}
	}
	d.run.Add(1)
	d.mu.Unlock()
	defer d.run.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	conn, err := d.net.DialContext(ctx, network, address)
	if err != nil {
		return nil, &dialError{err: err, proxy: d.proxy != nil}
	}
	return conn, nil
}

// control judges the address of every connection when its socket exists and nothing has been sent: what a name
// resolved to a moment ago, or to somebody else, does not count.
func (d *dialer) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return &AddressError{Kind: "an address that cannot be read"}
	}
	return d.policy.judge(to.Addr(), isPlain(ctx))
}

// isPlain reports whether the attempt that dials has an http URL. An attempt that cannot be found is taken for one, as
// plain http is judged more strictly.
func isPlain(ctx context.Context) bool {
	f, ok := ctx.Value(flightKey{}).(*flight)
	return !ok || f.plain
}

// proxyFor is asked before every request. A receiver by https is judged in beforeConnect, once for each connection; one
// by http has no CONNECT, so it is judged here.
func (d *dialer) proxyFor(r *http.Request) (*url.URL, error) {
	if err := CheckProxy(d.proxy); err != nil {
		return nil, &dialError{err: err, proxy: true}
	}
	if r.URL.Scheme == "http" {
		if err := d.judgeName(r.Context(), r.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	return d.proxy, nil
}

func (d *dialer) beforeConnect(ctx context.Context, _ *url.URL, target string) (http.Header, error) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, &AddressError{Kind: "an address that cannot be read"}
	}
	return nil, d.judgeName(ctx, host)
}

func afterConnect(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return &dialError{err: fmt.Errorf("status %d", answer.StatusCode), proxy: true, status: answer.StatusCode}
	}
	return nil
}

// judgeName judges every address of a host, as the proxy may take any of them.
func (d *dialer) judgeName(ctx context.Context, host string) error {
	plain := isPlain(ctx)
	if addr, err := netip.ParseAddr(host); err == nil {
		return d.policy.judge(addr, plain)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", host)
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
