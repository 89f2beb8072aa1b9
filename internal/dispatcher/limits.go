package dispatcher

import "sync/atomic"

// limits is what all callbacks of the replica share and what therefore has to be divided: the attempts that may be
// under way (places) and the bodies that attempts read for themselves (bodies). One goroutine owns both; it waits for
// nobody, so a loop may wait for its answer.
type limits struct {
	claims  chan claim
	places  *places
	bodies  *bodies
	taken   atomic.Int64 // places
	waiting atomic.Int64 // callbacks that wait for one
	over    chan struct{}
}

// claim is what is asked of limits.
type claim struct {
	what  claimed
	place *place
	do    func() // with other
}

type claimed int

const (
	takePlace claimed = iota
	releasePlace
	declinePlace
	other
)

// weight is what an attempt has taken of the bodies that may be read.
type weight struct {
	client string
	bytes  int64
}

func (w weight) with(more weight) weight {
	return weight{max(w.client, more.client), w.bytes + more.bytes}
}

func newLimits(attempts int, bytes int64) *limits {
	return &limits{
		claims: make(chan claim, messagesWaiting), places: newPlaces(attempts), bodies: newBodies(bytes), over: make(chan struct{}),
	}
}

// run handles claims until stop is closed, when nobody claims anything any more.
func (l *limits) run(stop <-chan struct{}) {
	defer close(l.over)
	for {
		select {
		case c := <-l.claims:
			switch c.what {
			case takePlace:
				c.place.answer <- c.place.wait()
			case releasePlace:
				c.place.release()
			case declinePlace:
				c.place.decline()
			case other:
				c.do()
			}
			l.taken.Store(int64(l.places.taken))
			l.waiting.Store(int64(l.places.waiting))
		case <-stop:
			return
		}
	}
}

func (l *limits) claim(c claim) bool {
	select {
	case l.claims <- c:
		return true
	case <-l.over:
		return false
	}
}

// do has the goroutine of limits call something and waits for it.
func (l *limits) do(f func()) {
	called := make(chan struct{})
	if l.claim(claim{what: other, do: func() { f(); close(called) }}) {
		select {
		case <-called:
		case <-l.over:
		}
	}
}

// join adds a callback of a client; its loop gets a message for places that are handed over.
func (l *limits) join(client string, handedOver func()) (pl *place) {
	l.do(func() { pl = l.places.join(client, func() { go handedOver() }) })
	return pl
}

// leave takes a callback out; it must have given back what it took.
func (l *limits) leave(pl *place) {
	if pl != nil {
		l.claim(claim{what: other, do: pl.leave})
	}
}

// take takes a place, if the callback may have one now; else it waits for one.
func (l *limits) take(pl *place) bool {
	return l.claim(claim{what: takePlace, place: pl}) && <-pl.answer
}

// takeNow takes a place, if the callback may have one now.
func (l *limits) takeNow(pl *place) (taken bool) {
	l.do(func() { taken = pl.take() })
	return taken
}

func (l *limits) release(pl *place) { l.claim(claim{what: releasePlace, place: pl}) }
func (l *limits) decline(pl *place) { l.claim(claim{what: declinePlace, place: pl}) }

// contended reports whether somebody waits for a place.
func (l *limits) contended() bool { return l.waiting.Load() > 0 }

// beginBody takes what one body is expected to weigh, weigh corrects that to what it weighs, and endBody gives it back.
func (l *limits) beginBody(client string) (w weight, ok bool) {
	l.do(func() { w.bytes, ok = l.bodies.begin(client) })
	w.client = client
	return w, ok
}

func (l *limits) weigh(w weight, size int) weight {
	l.do(func() { l.bodies.read(w.client, &w.bytes, size) })
	return w
}

func (l *limits) endBody(w weight) {
	if w.bytes > 0 {
		l.claim(claim{what: other, do: func() { l.bodies.end(w.client, w.bytes) }})
	}
}

// saw notes the size of an event of the log; fit returns how many events may be read at once, at most, to have about
// so many bytes.
func (l *limits) saw(size int)                  { l.bodies.saw(size) }
func (l *limits) fit(bytes int64, most int) int { return l.bodies.fit(bytes, most) }

// placer divides the attempts that may be under way among the callbacks of a replica, as a core sees it: limits, but
// in tests of the core.
type placer interface {
	take(pl *place) bool
	release(pl *place)
	decline(pl *place)
	contended() bool
}
