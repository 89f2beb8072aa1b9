package ingress

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// The limits of failed logins from one network, and of the log lines about them.
const (
	// DefaultFailures is how many failed logins of a network are answered without delay; after that
	// one every guessEvery.
	DefaultFailures = 20
	guessEvery      = 3 * time.Second
	// guessLineEvery is how often a network that keeps failing is logged.
	guessLineEvery = time.Minute
	// guessLines bounds the log lines about all networks together, per guessLineEvery.
	guessLines = 20
	// maxNetworks bounds how many networks are remembered. The network whose last failure is oldest
	// is forgotten first.
	maxNetworks = 4096
)

// Guesses counts failed logins by network. Only failures are counted: a caller with a valid token
// is never slowed down, no matter what others at the same address do.
type Guesses struct {
	burst float64

	mu       sync.Mutex
	networks map[netip.Prefix]*list.Element
	recent   *list.List // of *guesser, the most recent failure in front

	lines      int       // since linesSince
	linesSince time.Time // when counting them began
	unwritten  int       // failures that were not logged or counted in a line
}

// guesser is the state of one network.
type guesser struct {
	network  netip.Prefix
	tokens   float64   // failures that may still be answered without delay
	at       time.Time // when tokens was computed
	lastLine time.Time // when it was last logged
	more     int       // failures since then
}

// Failure is how a caller must treat a failed login.
type Failure struct {
	// Slowed is set if the network has used up its failures: it must be refused until RetryAfter
	// has passed.
	Slowed     bool
	RetryAfter time.Duration
	// Log is set if the failure must be logged. More is how many failures of the network were not
	// logged since its last line, Others how many of all other networks.
	Log          bool
	More, Others int
}

// NewGuesses returns Guesses without any failures. A network is slowed down after that many; 0
// means DefaultFailures.
func NewGuesses(failures int) *Guesses {
	if failures == 0 {
		failures = DefaultFailures
	}
	return &Guesses{burst: float64(failures), networks: map[netip.Prefix]*list.Element{}, recent: list.New()}
}

// Failed counts a failed login from an address, and returns how to treat it.
func (g *Guesses) Failed(addr netip.Addr, now time.Time) Failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.guesser(Network(addr), now)
	if passed := now.Sub(n.at); passed > 0 {
		n.tokens = min(n.tokens+float64(passed)/float64(guessEvery), g.burst)
		n.at = now
	}
	var f Failure
	if n.tokens >= 1 {
		n.tokens--
	} else {
		f.Slowed = true
		f.RetryAfter = time.Duration((1 - n.tokens) * float64(guessEvery))
	}
	g.log(n, &f, now)
	return f
}

// guesser returns the state of a network and makes it the most recent. The caller must hold mu.
func (g *Guesses) guesser(network netip.Prefix, now time.Time) *guesser {
	if e, ok := g.networks[network]; ok {
		g.recent.MoveToFront(e)
		return e.Value.(*guesser)
	}
	if len(g.networks) >= maxNetworks {
		oldest := g.recent.Remove(g.recent.Back()).(*guesser)
		delete(g.networks, oldest.network)
	}
	n := &guesser{network: network, tokens: g.burst, at: now}
	g.networks[network] = g.recent.PushFront(n)
	return n
}

// log decides whether the failure is logged. The caller must hold mu.
func (g *Guesses) log(n *guesser, f *Failure, now time.Time) {
	if now.Sub(g.linesSince) >= guessLineEvery || now.Before(g.linesSince) {
		g.lines, g.linesSince = 0, now
	}
	again := n.lastLine.IsZero() || now.Sub(n.lastLine) >= guessLineEvery || now.Before(n.lastLine)
	if !again || g.lines >= guessLines {
		n.more++
		g.unwritten++
		return
	}
	g.lines++
	f.Log, f.More, f.Others = true, n.more, max(g.unwritten-n.more, 0)
	n.lastLine, n.more, g.unwritten = now, 0, 0
}
