package doctor

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// Config is what an examination of a running relay looks at.
type Config struct {
	Store    *store.Store
	Conn     *nats.Conn
	Embedded bool
	DataDir  string // of the embedded store
	Sender   *sender.Sender
	Version  string
	Replica  string
	Started  []Check // what was found of the settings at the start

	VendorHosts []string      // addresses of the vendor whose hosts are reached
	Rate        int           // of requests a minute to the vendor
	Interval    time.Duration // between two polls of a connection
	// VendorTurn waits for a place in the vendor's request budget.
	VendorTurn func(ctx context.Context) error

	Encryption func() store.KeyStatus
	// Health returns the health of callbacks whose owners respond: ok, failing, open, congested; or slowed, of one
	// whose receiver asks for less.
	Health func(ctx context.Context, callbacks []string) map[string]string

	leaseTTL time.Duration // of leases and member records, in tests; 0: topology.LeaseTTL
}

// The time limits. Whatever hangs, a report comes within the first.
const (
	limit     = 25 * time.Second
	areaLimit = 20 * time.Second
)

// Doctor examines a running relay from inside: by what it has in memory and in its store, and by reaching out to the
// vendor and to the receivers. The command relay doctor asks it for that by the API, and examines by itself what can be
// seen without it.
type Doctor struct {
	c       Config
	busy    sync.Mutex
	refused refusals
}

// New returns a Doctor. It hears from now on what NATS refuses on the connection.
func New(c Config) *Doctor {
	d := &Doctor{c: c}
	d.refused.listen(c.Conn)
	return d
}

// ErrBusy means that another examination is under way.
var ErrBusy = errors.New("another examination is under way")

// Examine examines the relay, one caller at a time. What does not end in time is in the report as unchecked.
func (d *Doctor) Examine(ctx context.Context) (Report, error) {
	if !d.busy.TryLock() {
		return Report{}, ErrBusy
	}
	defer d.busy.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := Report{At: time.Now().UTC(), Version: d.c.Version, Replica: d.c.Replica}
	r.Add(d.c.Started...)
	r.Add(Fine(Relay, "", "it runs and answers"))
	var mu sync.Mutex
	var parts sync.WaitGroup
	for _, look := range []func(context.Context) []Check{
		d.storage, d.streams, d.keys, d.replicas, d.vendor, d.connections, d.notifications, d.clients, d.callbacks,
	} {
		parts.Go(func() {
			of, cancel := context.WithTimeout(ctx, areaLimit)
			defer cancel()
			found := look(of)
			mu.Lock()
			defer mu.Unlock()
			r.Add(found...)
		})
	}
	parts.Wait()
	if err := ctx.Err(); errors.Is(err, context.Canceled) { // the caller is gone
		return Report{}, err
	}
	r.Finish()
	return r, nil
}

// each does something with many things, a few at a time, and returns how many were left when ctx ended.
func each[T any](ctx context.Context, together int, things []T, do func(T)) (left int) {
	var parts sync.WaitGroup
	places := make(chan struct{}, together)
	for i, thing := range things {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			parts.Wait()
			return len(things) - i
		}
		parts.Go(func() {
			defer func() { <-places }()
			do(thing)
		})
	}
	parts.Wait()
	return 0
}

// findings examines many things, a few at a time, and returns what is found of them and how many were left.
func findings[T any](ctx context.Context, things []T, examine func(T) (Check, bool)) (found []Check, left int) {
	var mu sync.Mutex
	left = each(ctx, together, things, func(thing T) {
		check, is := examine(thing)
		mu.Lock()
		defer mu.Unlock()
		if is {
			found = append(found, check)
		}
	})
	return found, left
}

// replicas looks at the members and at the owners of the shards.
func (d *Doctor) replicas(ctx context.Context) []Check {
	var bad unreadable
	there, err := d.c.Store.Owners.All(ctx, "", bad.add)
	if err != nil {
		return []Check{Unknown(Replicas, "", "who owns the shards cannot be read: %v", err)}
	}
	now, err := d.c.Store.Owners.Now(ctx)
	if err != nil {
		return []Check{Unknown(Replicas, "", "the time of the store cannot be read: %v", err)}
	}
	owned, members := map[int]bool{}, 0
	for _, e := range there {
		if topology.Lapsed(e.Written, now, cmp.Or(d.c.leaseTTL, topology.LeaseTTL)) {
			continue
		}
		if e.Value.Member != nil {
			members++
		}
		if n, ok := store.ShardOfLease(e.Key); ok && e.Value.Lease != nil {
			owned[n] = true
		}
	}
	found := bad.found("leases")
	if n := relay.Shards - len(owned); n > 0 {
		return append(found,
			Wrong(Replicas, "", plural(n, "shard has", "shards have")+" no owner: their connections are not polled, "+
				"their callbacks get nothing",
				"wait for half a minute after a replica has gone; if it stays so, look in the logs of all replicas "+
					"for lines about the store, and restart them one by one"))
	}
	return append(found, ok(Replicas, "", "%s, and every shard has an owner", plural(members, "replica", "replicas")))
}

// keys looks at the keys that encrypt.
func (d *Doctor) keys(context.Context) []Check {
	s := d.c.Encryption()
	if s.CheckedAt.IsZero() {
		return []Check{Unknown(Keys, "", "the secrets in the store were not counted yet; ask again in a minute")}
	}
	var found []Check
	for _, k := range s.Keys {
		if s.Use(k) == "missing" && k.Secrets > 0 {
			found = append(found, Wrong(Keys, keyName(k.ID),
				plural(k.Secrets, "secret is", "secrets are")+" encrypted with a key that is not given",
				"add the key to RELAY_ENCRYPTION_KEYS; without it they must be made again"))
		}
	}
	switch {
	case len(found) > 0:
	case !s.Through():
		found = append(found, ok(Keys, keyName(s.Writing),
			"it encrypts; %s encrypted with others, and encrypted again in the background",
			plural(s.Left, "secret is", "secrets are")))
	default:
		found = append(found, ok(Keys, keyName(s.Writing), "it has encrypted everything"))
	}
	return found
}
