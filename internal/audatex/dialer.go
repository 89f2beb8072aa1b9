package audatex

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// errManyCalls means that a call was not made: hanging calls use all the connections that are allowed.
var errManyCalls = fmt.Errorf("%w: as many are open as there may be", ErrNotDialled)

// BoundedDialer dials the vendor, and fails at once while it has the maximum of connections open.
// Nothing has been sent then, so the call can be made later.
type BoundedDialer struct {
	net.Dialer
	most int64
	open atomic.Int64
}

// NewBoundedDialer returns a dialer for at most the given number of connections.
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
