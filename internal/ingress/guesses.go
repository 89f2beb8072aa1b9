package ingress

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// The bounds of failed logins: from one network, and of the log lines about them.
const (
	// DefaultFailures of a network are answered as what they are; after that one every guessEvery.
	DefaultFailures = 20
	guessEvery      = 3 * time.Second
	// guessLineEvery is how often a network that goes on failing gets a line in the log.
	guessLineEvery = time.Minute
	// guessLines bounds the lines about all networks together in each guessLineEvery.
	guessLines = 20
	// maxNetworks bounds the networks remembered; the one that has been quiet for longest is forgotten first.
	maxNetworks = 4096
)

// Guesses counts failed logins by the network they came from. It is told of failures only: whoever shows a valid token is
// never slowed, whatever others at the same address do.
type Guesses struct {
	burst float64

	mu       sync.Mutex
	networks map[netip.Prefix]*list.Element
	recent   *list.List // of *guesser, the one that failed last in front

	lines      int       // written since linesSince
	linesSince time.Time // when counting them began
	unwritten  int       // failures that no line has counted
}

// guesser is what is known of one network.
type guesser struct {
	network netip.Prefix
	tokens  float64   // failures that may still be answered as what they are
	at      time.Time // when tokens was worked out
	told    time.Time // when it last had a line
	more    int       // failures since that line
}

// Failure is what follows from a failed login.
type Failure struct {
	// Slowed says that the network has used up its failures: it must be refused until RetryAfter is over.
	Slowed     bool
	RetryAfter time.Duration
	// Tell says that the failure deserves a line in the log. More is how many failures of the network have had none
	// since its last line, Others how many of all networks.
	Tell         bool
	More, Others int
}

// NewGuesses returns Guesses that know of no failures. After so many failures a network is slowed; 0: DefaultFailures.
func NewGuesses(failures int) *Guesses {
	if failures == 0 {
		failures = DefaultFailures
	}
	return &Guesses{burst: float64(failures), networks: map[netip.Prefix]*list.Element{}, recent: list.New()}
}

// Failed counts a failed login from an address and returns what follows from it.
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
	g.tell(n, &f, now)
	return f
}

// guesser returns what is known of a network, and makes it the most recent. mu is held.
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

// tell decides whether the failure gets a line. mu is held.
func (g *Guesses) tell(n *guesser, f *Failure, now time.Time) {
	if now.Sub(g.linesSince) >= guessLineEvery || now.Before(g.linesSince) {
		g.lines, g.linesSince = 0, now
	}
	again := n.told.IsZero() || now.Sub(n.told) >= guessLineEvery || now.Before(n.told)
	if !again || g.lines >= guessLines {
		n.more++
		g.unwritten++
		return
	}
	g.lines++
	f.Tell, f.More, f.Others = true, n.more, max(g.unwritten-n.more, 0)
	n.told, n.more, g.unwritten = now, 0, 0
}
