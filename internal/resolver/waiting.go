package resolver

import (
	"context"
	"fmt"
	"math"
	"sort"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// countEvery is how long a count of notifications that lanes do not list is used again.
const countEvery = time.Second

// progress is what a runner knows of its notifications at one moment.
type progress struct {
	held     int             // notifications that were read and are not settled
	unlisted []cursor.Refill // stretches of the inbox with notifications that lanes do not list
	read     uint64          // the last page read; 0 if none was
	known    uint64          // the last page known to be in the inbox
	ahead    []cursor.Range  // entries beyond what was read that are settled or in a lane
}

// isAhead reports whether an entry beyond what was read is settled or in a lane.
func (p progress) isAhead(entry uint64) bool {
	i := sort.Search(len(p.ahead), func(i int) bool { return p.ahead[i][1] >= entry })
	return i < len(p.ahead) && p.ahead[i][0] <= entry
}

// Waiting returns how many notifications of a connection are in the inbox and not resolved. It
// fails if this replica does not resolve them, or if ctx ends first.
func (r *Resolver) Waiting(ctx context.Context, connection string) (int, error) {
	run, ok := r.roster.Runner(connection)
	if !ok {
		return 0, fmt.Errorf("connection %s is not resolved by this replica", connection)
	}
	p, err := run.askProgress(ctx)
	if err != nil {
		return 0, err
	}
	n := p.held
	if p.known > p.read {
		if err := r.store.Inbox.EachHead(ctx, connection, run.generation, p.read+1, func(page store.Page) {
			for i := range page.Entries {
				if !p.isAhead(relay.PackEntry(page.Seq, i)) {
					n++
				}
			}
		}); err != nil {
			return 0, err
		}
	}
	unlisted, err := run.countUnlisted(ctx, p)
	return n + unlisted, err
}

// askProgress asks the runner for its progress.
func (r *runner) askProgress(ctx context.Context) (progress, error) {
	answer := make(chan progress, 1)
	asked := r.progressRequests
	for {
		select {
		case asked <- answer:
			asked = nil
			r.wake()
		case p := <-answer:
			return p, nil
		case <-r.ended:
			return progress{}, fmt.Errorf("the notifications of connection %s are not resolved here any more",
				r.connection)
		case <-ctx.Done():
			return progress{}, fmt.Errorf("the runner of connection %s does not answer: %w", r.connection, ctx.Err())
		}
	}
}

// progress returns how far the runner is. It is called within its turn.
func (r *runner) progress() progress {
	p := progress{held: r.cursor.Unsettled(), read: r.inbox.read,
		known: max(r.inbox.head, r.announced.highest()), ahead: r.cursor.Ahead()}
	if !r.inbox.started {
		first, _ := relay.UnpackEntry(r.cursor.ReadFrom())
		p.read = max(first, 1) - 1
	}
	for _, page := range r.inbox.pages {
		for _, it := range page.items[page.next:] {
			if r.cursor.Where(cursor.Entry{Seq: it.entry(), Order: it.lane()}) == cursor.Unread {
				p.held++
			}
		}
	}
	if r.cursor.Lanes() > 0 {
		p.unlisted = r.cursor.Unlisted()
	}
	return p
}

// unlistedCount is the last count of countUnlisted.
type unlistedCount struct {
	sync.Mutex
	n  int
	at time.Time
}

// countUnlisted returns how many notifications wait that lanes do not list. It has to read their pages, so it uses
// the last count again for a moment.
func (r *runner) countUnlisted(ctx context.Context, p progress) (int, error) {
	stretches := p.unlisted
	if len(stretches) == 0 {
		return 0, nil
	}
	r.unlisted.Lock()
	defer r.unlisted.Unlock()
	if now := r.cfg.Now(); now.Sub(r.unlisted.at).Abs() < countEvery {
		return r.unlisted.n, nil
	}
	from, through := stretches[0].From, uint64(0)
	of := make(map[string]cursor.Refill, len(stretches))
	for _, s := range stretches {
		of[s.Order], through = s, max(through, s.Through)
	}
	n := 0
	for read := from; read <= through; {
		seq, _ := relay.UnpackEntry(read)
		items, upTo, err := scan(ctx, r.store, r.connection, r.generation, seq)
		if err != nil {
			return 0, err
		}
		for _, it := range items {
			s, waits := of[it.lane()]
			if waits && it.entry() >= s.From && it.entry() <= s.Through &&
				(it.page <= p.read || p.isAhead(it.entry())) {
				n++
			}
		}
		if upTo == math.MaxUint64 {
			break
		}
		read = upTo + 1
	}
	r.unlisted.n, r.unlisted.at = n, r.cfg.Now()
	return n, nil
}
