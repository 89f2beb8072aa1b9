package sender

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// maxUntidy bounds how many callbacks are remembered as leaving stray bytes. A forgotten one is
// found out again.
const maxUntidy = 16 << 10

// pool holds the connections of a Sender and bounds their number: those in use, those being made,
// and the idle ones. If a new one is needed at the bound, the oldest idle connection is closed, no
// matter whose it is.
type pool struct {
	max int

	mu     sync.Mutex
	closed bool
	open   int
	idle   chain         // of all callbacks
	own    map[key]chain // of each key that has any
	queue  []chan struct{}
	expiry *time.Timer    // set while there are idle connections
	ending sync.WaitGroup // connections being closed because they were idle for long

	// Callbacks that left stray bytes on a connection. They are stored as hashes, because URLs are
	// long; if two are confused, one of them only loses its kept connections.
	untidy map[uint64]struct{}
	seed   maphash.Seed
}

func newPool(bound int) *pool {
	return &pool{max: bound, own: map[key]chain{}, untidy: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

// take returns the newest idle connection of a callback, or nil. Tidy reports whether a connection
// may be kept afterwards.
func (p *pool) take(k key) (c *conn, tidy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tidy = true
	if len(p.untidy) > 0 {
		_, found := p.untidy[maphash.Comparable(p.seed, k)]
		tidy = !found
	}
	if c = p.own[k].newest; c != nil {
		p.unlink(c)
	}
	return c, tidy
}

// reserve makes room for a new connection, and waits if all are in use. release gives the room
// back.
func (p *pool) reserve(ctx context.Context) error {
	p.mu.Lock()
	if p.open < p.max {
		p.open++
		p.mu.Unlock()
		return nil
	}
	if c := p.idle.oldest; c != nil {
		p.unlink(c)
		p.mu.Unlock()
		c.close() // its room is now ours
		return nil
	}
	turn := make(chan struct{})
	p.queue = append(p.queue, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, turn); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	} else { // its turn came at the same moment
		p.releaseLocked()
	}
	return ctx.Err()
}

// keep makes a connection idle, or closes it if its room is needed.
func (p *pool) keep(c *conn) {
	p.mu.Lock()
	if p.closed || len(p.queue) > 0 {
		p.mu.Unlock()
		c.close()
		p.release()
		return
	}
	c.idle = time.Now()
	own := p.own[c.key]
	own.push(c, ofOwn)
	p.own[c.key] = own
	p.idle.push(c, ofAll)
	if p.expiry == nil {
		p.expiry = time.AfterFunc(idleTimeout, p.expire)
	}
	p.mu.Unlock()
}

// release returns the room of a connection that was closed or never made.
func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked()
}

func (p *pool) releaseLocked() {
	if len(p.queue) > 0 {
		close(p.queue[0])
		p.queue = slices.Delete(p.queue, 0, 1)
		return
	}
	p.open--
}

// distrust records that a callback leaves stray bytes. Its idle connections are closed, and none is
// kept any more.
func (p *pool) distrust(k key) {
	p.mu.Lock()
	if len(p.untidy) >= maxUntidy {
		for other := range p.untidy {
			delete(p.untidy, other)
			break
		}
	}
	p.untidy[maphash.Comparable(p.seed, k)] = struct{}{}
	p.mu.Unlock()
	for {
		c, _ := p.take(k)
		if c == nil {
			return
		}
		c.close()
		p.release()
	}
}

// expire closes the connections that have been idle for long enough.
func (p *pool) expire() {
	p.mu.Lock()
	if p.closed { // close has closed them all
		p.mu.Unlock()
		return
	}
	var old []*conn
	for c := p.idle.oldest; c != nil && time.Since(c.idle) >= idleTimeout; c = p.idle.oldest {
		p.unlink(c)
		old = append(old, c)
	}
	p.expiry = nil
	if c := p.idle.oldest; c != nil {
		p.expiry = time.AfterFunc(idleTimeout-time.Since(c.idle), p.expire)
	}
	p.ending.Add(1)
	p.mu.Unlock()
	defer p.ending.Done()
	for _, c := range old {
		c.close()
		p.release()
	}
}

// closeIdle closes the connections that are idle now.
func (p *pool) closeIdle() {
	for {
		p.mu.Lock()
		c := p.idle.oldest
		if c == nil {
			p.mu.Unlock()
			return
		}
		p.unlink(c)
		p.mu.Unlock()
		c.close()
		p.release()
	}
}

// close closes the idle connections. The dialer must be closed before. A connection that is
// returned later is closed, too.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	var all []*conn
	for c := p.idle.oldest; c != nil; c = p.idle.oldest {
		p.unlink(c)
		all = append(all, c)
	}
	if p.expiry != nil {
		p.expiry.Stop()
		p.expiry = nil
	}
	for _, turn := range p.queue { // they find the dialer closed
		p.open++
		close(turn)
	}
	p.queue = nil
	p.mu.Unlock()
	for _, c := range all {
		c.close()
		p.release()
	}
	p.ending.Wait()
}

// unlink removes a connection from the idle ones.
func (p *pool) unlink(c *conn) {
	p.idle.remove(c, ofAll)
	own := p.own[c.key]
	own.remove(c, ofOwn)
	if own.newest == nil {
		delete(p.own, c.key)
	} else {
		p.own[c.key] = own
	}
}

// chain is a list of idle connections in the order in which they became idle. The links are in the
// connections themselves, so that keeping one allocates nothing.
type chain struct{ newest, oldest *conn }

// The two chains that an idle connection is in, as indices of conn.links.
const (
	ofAll = iota
	ofOwn
)

func (l *chain) push(c *conn, which int) {
	c.links[which] = links{older: l.newest}
	if l.newest != nil {
		l.newest.links[which].newer = c
	} else {
		l.oldest = c
	}
	l.newest = c
}

func (l *chain) remove(c *conn, which int) {
	at := c.links[which]
	if at.newer != nil {
		at.newer.links[which].older = at.older
	} else {
		l.newest = at.older
	}
	if at.older != nil {
		at.older.links[which].newer = at.newer
	} else {
		l.oldest = at.newer
	}
	c.links[which] = links{}
}
