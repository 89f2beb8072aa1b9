// Package poller empties the vendor's queue of every connection into the inbox: the first step of a notification's way.
// It promises that what the vendor has handed out is stored, or that the gap is published. Begin reading at runner.go,
// where Turn is what a connection's runner does again and again, and follow a poll through these files:
//
//	schedule.go   decides when a runner polls
//	poll.go       makes a poll
//	unstored.go   stores what it brought; leftpages.go does so after the shard was given up
//	adopt.go      takes a connection over
//	gaps.go       reports what may be lost; prepare.go what the store has lost
//	document.go   stores what is known of the connection
package poller

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/roster"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/store"
)

// Operations informs operators and subscribers of what happened to the relay itself.
type Operations interface {
	Operational(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any) error
	// Once is Operational for what must not be published twice: an event since a time with equal
	// details under the keys by is the same.
	Once(ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any,
		since time.Time, by ...string) error
}

// Reconciler reads a connection's open orders again.
type Reconciler interface {
	// Suspected reports a connection's document, which is stored: its Gaps have become more, or the
	// connection was taken over with some. It must not wait.
	Suspected(connection string, doc relay.Poll)
}

// Config is what New needs.
type Config struct {
	Store      *store.Store
	Session    func(relay.Connection) *audatex.Session
	Operations Operations
	Reconciler Reconciler
	Interval   time.Duration // of connections that name none
	// Sooner is the shortest time between two polls of a connection that come sooner than its
	// interval; 0: a minute. They do for SoonerFor after something came, or a user consented.
	Sooner, SoonerFor time.Duration
	// Short reports that the vendor's budget has nothing to spare; nil: it always has.
	Short     func() bool
	Topic     string        // what is subscribed to; Topic if empty
	Renewal   time.Duration // how often the tokens of paused connections are refreshed; DefaultRenewal if zero
	PollBound time.Duration // a poll has ended for certain this long after it was sent
	// Exclusive: no other process works on this store (the embedded store under its file lock). The
	// intent of another process is then a dead one's, and nobody waits for its deadline.
	Exclusive bool
	// Grace is how long a page that was read is tried to be stored after the shard was given up or
	// the relay asked to stop.
	Grace   time.Duration
	Log     *slog.Logger
	Metrics *Metrics
}

// Poller polls the vendor for every connection of the shards that this replica holds.
//
// A vendor poll is destructive: what a response carried is gone there the moment it was sent. So each poll is
//
//	intent (relay_polls) → call → page (relay_inbox) → outcome (relay_polls)
//
// The intent also proves that the store takes writes before anything is taken out of the vendor's queue. An intent that
// has no outcome, and whose poll id is not in the inbox either, is a suspected gap: the response may have carried
// notifications that nobody stored. It is published as an operational event.
//
// Which connections are polled here changes as shards come and go (Own). Whoever takes a connection over first waits
// until the poll of a stored intent must have ended, then writes its own epoch into the document, so that nothing the
// process before writes there counts any more, and only then polls.
//
// The goroutines:
//
//   - Run follows the connections, and stores the pages whose shard was given up (leftpages.go).
//   - Own waits for the end of a shard's work.
//   - A runner has one during its turns only, which roster gives it. A poll is made within a turn.
type Poller struct {
	Config
	nonce     string // of this process, in its intents
	roster    *roster.Roster[*runner]
	leftPages leftPages
	pace      pace
	// connection to the poll announced last of which nothing was sent; its intent may be stored nevertheless, and late
	unsentPolls sync.Map
}

// ErrNotOwned means that no connection of this id is polled here.
var ErrNotOwned = errors.New("no such connection is polled by this replica")

// New makes a poller. Run and Own start it.
func New(c Config) *Poller {
	c.Topic = cmp.Or(c.Topic, Topic)
	c.Renewal = cmp.Or(max(c.Renewal, 0), DefaultRenewal)
	c.Sooner = cmp.Or(max(c.Sooner, 0), time.Minute)
	c.Metrics = cmp.Or(c.Metrics, NewMetrics(nil))
	p := &Poller{Config: c, nonce: relay.NewID(), leftPages: leftPages{added: signal.New()}}
	p.roster = roster.New(roster.Config[*runner]{Connections: c.Store.Connections, Make: p.newRunner, Log: c.Log})
	c.Metrics.poller.Store(p)
	return p
}

// Run follows which connections there are, and stores what Own has left behind, until ctx ends. Own polls.
func (p *Poller) Run(ctx context.Context) error {
	var storing sync.WaitGroup
	storing.Go(func() { p.storeLeftPages(ctx) })
	p.roster.Run(ctx)
	storing.Wait()
	return ctx.Err()
}

// Own polls the connections of a shard under its lease until ctx ends. Calls under way then run to
// their end, and Own returns when what they brought is stored.
func (p *Poller) Own(ctx context.Context, lease *shard.Lease) error { return p.roster.Own(ctx, lease) }

// PollNow asks for a poll at once. It does not wait for it. ErrNotOwned: the connection is polled
// elsewhere, or there is none; store.ErrUnavailable: nothing is polled while the store takes no
// writes.
func (p *Poller) PollNow(_ context.Context, connection string) error {
	r, ok := p.roster.Runner(connection)
	if !ok {
		return ErrNotOwned
	}
	if err := r.unstorable(); err != nil {
		return err
	}
	r.pollNow()
	return nil
}

func (p *Poller) short() bool { return p.Short != nil && p.Short() }

// Unstored returns why a page that was read for a connection is not stored yet, "" if there is
// none; false if the connection is not polled here.
func (p *Poller) Unstored(connection string) (string, bool) {
	r, ok := p.roster.Runner(connection)
	if !ok {
		return "", false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.unstored, true
}

// Connection returns a connection as it is configured; false if it is not known, or not yet.
func (p *Poller) Connection(id string) (relay.Connection, bool) { return p.roster.Connection(id) }

// Connections returns every connection of a shard that is known, polled here or elsewhere.
func (p *Poller) Connections(shard int) []relay.Connection { return p.roster.Connections(shard) }

// known returns how many connections there are.
func (p *Poller) known() (all int) {
	for _, n := range p.Count() {
		all += n
	}
	return all
}

// Count returns how many connections of each shard there are, polled here or elsewhere.
func (p *Poller) Count() [relay.Shards]int { return p.roster.Count() }
