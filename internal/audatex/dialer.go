package audatex

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// errManyCalls says that a call was not made: calls that hang have all the connections that the vendor may have.
var errManyCalls = fmt.Errorf("%w: as many are open as there may be", ErrNotDialled)

// BoundedDialer dials the vendor, and fails at once while it has as many connections open as it may. Nothing has been sent
// then, so the call is simply made later.
type BoundedDialer struct {
	net.Dialer
	most int64
	open atomic.Int64
}

// NewBoundedDialer returns a dialer for at most so many connections.
func NewBoundedDialer(most int) *BoundedDialer {
	return &BoundedDialer{Dialer: net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}, most: int64(most)}
}

// DialContext connects as net.Dialer's does.
func (d *BoundedDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.open.Add(1) > d.most {
		d.open.Add(-1)
		return nil, &net.OpError{Op: "dial", Net: network, Err: errManyCalls}
	}
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		d.open.Add(-1)
		return nil, err
	}
	return &countedConn{Conn: c, of: d}, nil
}

type countedConn struct {
	net.Conn
	of   *BoundedDialer
	once sync.Once
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(func() { c.of.open.Add(-1) })
	return c.Conn.Close()
}
