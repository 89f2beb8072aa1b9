package dispatcher

import "slices"

// places bounds the attempts that may be under way at once, and divides them so that nobody's hanging receivers take
// what others need:
//
//   - Half of all places are guaranteed, in equal parts to the clients that have callbacks here and to one that may come.
//     Nobody else gets those.
//   - Of the other half a client takes no more than it leaves free. However many clients take all they can, the next one
//     still finds some.
//   - A callback takes at most twice what it leaves free of what its client may have. Each gets a first place if there is
//     one.
//   - Who was refused waits. When a place becomes free it is handed to the waiting client with the fewest attempts under
//     way, and of its waiting callbacks to the one with the fewest. Whoever gives a place back does not get it again while
//     others with fewer wait.
//
// An attempt is bounded in time, so places always become free again, and everybody who waits gets one.
//
// One goroutine owns it, see limits.
type places struct {
	limit   int
	taken   int
	waiting int // callbacks that wait
	each    int // guaranteed to each client
	beyond  int // taken beyond the guaranteed parts
	clients map[string]*clientPlaces
	queue   []*clientPlaces // those with callbacks that wait
}

// clientPlaces is what the callbacks of one client have.
type clientPlaces struct {
	id      string
	members int
	taken   int
	waiting []*place // in the order in which they were refused
}

// place is what one callback has.
type place struct {
	of      *places
	client  *clientPlaces
	wake    func() // is called when a place was handed over
	taken   int    // those handed over included
	granted bool   // a place was handed over and has not been used yet
	waits   bool
	left    bool

	answer chan bool // of limits, for who takes
}

func newPlaces(limit int) *places {
	return &places{limit: max(limit, 1), clients: map[string]*clientPlaces{}}
}

// join adds a callback of a client.
func (p *places) join(client string, wake func()) *place {
	c := p.clients[client]
	if c == nil {
		c = &clientPlaces{id: client}
		p.clients[client] = c
		p.divide()
		p.handOver() // the parts may have become so small that more is left to share
	}
	c.members++
	return &place{of: p, client: c, wake: wake}
}

// leave ends a callback's membership; it must have given back what it took. It may be called more than once.
func (pl *place) leave() {
	p := pl.of
	if pl.left {
		return
	}
	pl.left = true
	pl.stopWaiting()
	if pl.granted {
		pl.granted = false
		pl.free()
	}
	if pl.client.members--; pl.client.members == 0 {
		delete(p.clients, pl.client.id)
		p.divide()
	}
	p.handOver()
}

// wait takes a place; without one the callback waits, and is woken once a place was handed to it.
func (pl *place) wait() bool {
	p := pl.of
	if pl.take() {
		return true
	}
	if !pl.waits && !pl.left {
		pl.waits = true
		p.waiting++
		if len(pl.client.waiting) == 0 {
			p.queue = append(p.queue, pl.client)
		}
		pl.client.waiting = append(pl.client.waiting, pl)
	}
	return false
}

// release gives one place back.
func (pl *place) release() {
	p := pl.of
	pl.free()
	p.handOver()
}

// decline gives a place back that was handed over and could not be used.
func (pl *place) decline() {
	p := pl.of
	if pl.granted {
		pl.granted = false
		pl.free()
		p.handOver()
	}
}

// take takes a place that was handed over, or a free one, if the callback may have one now.
func (pl *place) take() bool {
	if pl.granted {
		pl.granted = false
		return true
	}
	if pl.left || !pl.of.allows(pl) {
		return false
	}
	pl.stopWaiting() // it has what it waited for
	pl.add()
	return true
}

// allows reports whether the callback may have one more.
func (p *places) allows(pl *place) bool {
	room := p.room(pl.client)
	return room > 0 && (pl.taken == 0 || pl.client.members == 1 || pl.taken < 2*room)
}

// room returns how many more places a client may take.
func (p *places) room(c *clientPlaces) int {
	free := p.limit - p.taken
	own := max(p.each-c.taken, 0)
	beyond := max(c.taken-p.each, 0)
	shared := p.limit - p.each*(len(p.clients)+1) - p.beyond
	return min(own+max((shared-beyond+1)/2, 0), free)
}

// add and free count a place.
func (pl *place) add() {
	p := pl.of
	if pl.client.taken >= p.each {
		p.beyond++
	}
	pl.taken++
	pl.client.taken++
	p.taken++
}

func (pl *place) free() {
	p := pl.of
	pl.taken--
	pl.client.taken--
	p.taken--
	if pl.client.taken >= p.each {
		p.beyond--
	}
}

// divide works the guaranteed parts out again: the number of clients has changed.
func (p *places) divide() {
	p.each, p.beyond = p.limit/(2*(len(p.clients)+1)), 0
	for _, c := range p.clients {
		p.beyond += max(c.taken-p.each, 0)
	}
}

// handOver gives free places to those who wait, as long as one of them may have one.
func (p *places) handOver() {
	for len(p.queue) > 0 && p.taken < p.limit {
		pl := p.next()
		if pl == nil {
			return
		}
		pl.stopWaiting()
		pl.add()
		pl.granted = true
		pl.wake()
	}
}

// next returns whose turn it is, nil if nobody who waits may have a place.
func (p *places) next() (best *place) {
	for _, c := range p.queue {
		if best != nil && c.taken >= best.client.taken {
			continue
		}
		fewest := c.waiting[0]
		for _, pl := range c.waiting[1:] {
			if pl.taken < fewest.taken {
				fewest = pl
			}
		}
		if p.allows(fewest) {
			best = fewest
		}
	}
	return best
}

// stopWaiting takes the callback out of those who wait.
func (pl *place) stopWaiting() {
	if !pl.waits {
		return
	}
	p, c := pl.of, pl.client
	pl.waits = false
	p.waiting--
	c.waiting = slices.DeleteFunc(c.waiting, func(other *place) bool { return other == pl })
	if len(c.waiting) == 0 {
		p.queue = slices.DeleteFunc(p.queue, func(other *clientPlaces) bool { return other == c })
	}
}
