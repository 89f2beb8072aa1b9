package ingress

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
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

// Guesses counts failed logins by network, or other guesses, such as of paths. Only failures are counted: a caller with
// a valid token is never slowed down, no matter what others at the same address do.
type Guesses struct {
	burst int

	mu       sync.Mutex
	networks *lru.Cache[netip.Prefix, *guesser]

	lines      int       // since linesSince
	linesSince time.Time // when counting them began
	unwritten  int       // failures that were not logged or counted in a line
}

// guesser is the state of one network.
type guesser struct {
	failures *rate.Limiter // those that may still be answered without delay
	lastLine time.Time     // when it was last logged
	more     int           // failures since then
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
	networks, _ := lru.New[netip.Prefix, *guesser](maxNetworks) // it fails only without a size
	return &Guesses{burst: cmp.Or(failures, DefaultFailures), networks: networks}
}

// Failed counts a failed login from an address, and returns how to treat it.
func (g *Guesses) Failed(addr netip.Addr, now time.Time) Failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	network := Network(addr)
	n, known := g.networks.Get(network)
	if !known {
		n = &guesser{failures: rate.NewLimiter(rate.Every(guessEvery), g.burst)}
		g.networks.Add(network, n)
	}
	var f Failure
	turn := n.failures.ReserveN(now, 1)
	if f.RetryAfter = turn.DelayFrom(now); f.RetryAfter > 0 {
		f.Slowed = true
		turn.CancelAt(now)
	}
	g.log(n, &f, now)
	return f
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
