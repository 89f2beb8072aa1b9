package publisher

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// repeatAfter is how long the same operational event is not published again. Otherwise a
	// company's unmapped sites would fill the log with the same sentence.
	repeatAfter = 10 * time.Minute
	// maxRepeats bounds how many are remembered. Publishing one once more is better than growing
	// without limit.
	maxRepeats = 4096
	// operationalTries bounds the attempts to publish one operational event.
	operationalTries = 3
	operationalPause = 200 * time.Millisecond
)

// Operational publishes an operational event about id (a connection, a callback, an order) at site,
// or relay.NoSite. A process publishes an event with the same text at most once in ten minutes. It
// tries three times; if the store's response was lost, the event may be in the log twice.
func (p *Publisher) Operational(
	ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any,
) error {
	if site == "" {
		site = relay.NoSite
	}
	if err := checkSubject(kind, id); err != nil {
		return err
	}
	text := site + " " + string(kind) + " " + id + " " + message
	if at, ok := p.repeats.Get(text); ok && p.c.Now().Sub(at) < repeatAfter {
		return nil
	}
	next, err := p.turns.wait(ctx, id)
	if err != nil {
		return err
	}
	defer next.leave()
	ev, err := p.operational(next, site, kind, id, message, details)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		_, err = p.c.Store.Events.PublishOperational(ctx, ev)
		if err == nil {
			p.repeats.Add(text, p.c.Now())
			p.c.Metrics.operational(ev.Type)
			return nil
		}
		if try == operationalTries || ctx.Err() != nil || errors.Is(err, store.ErrTooLarge) {
			return fmt.Errorf("publish operational event %s of %s: %w", kind, id, err)
		}
		backoff.Sleep(ctx, operationalPause)
	}
}

// checkSubject returns an error if id cannot be a part of an event's subject.
func checkSubject(kind relay.Kind, id string) error {
	if id == "" || strings.ContainsAny(id, " .*>\t\r\n") {
		return fmt.Errorf("operational event %s: %q cannot stand in a subject", kind, id)
	}
	return nil
}

// operational returns an event with the present time. It must be published before the turn ends.
func (p *Publisher) operational(
	t *turn, site string, kind relay.Kind, id, message string, details map[string]any,
) (relay.Event, error) {
	now := p.c.Now()
	ev, err := relay.NewOperationalEvent(p.c.PublicURL, site, id, now,
		relay.Operational{Kind: kind, Message: message, Details: details})
	if err != nil {
		return relay.Event{}, err
	}
	t.last = relay.NextSequence(now.Add(p.c.Ahead), t.last)
	return ev.Numbered(t.last), nil
}

// turns lets the operational events of one thing be numbered and published one after another. The
// poller, the resolver and the reconciler publish events about the same connection, each when it
// needs to. Without turns, the one with the lower sequence could enter the log second, and a
// receiver that keeps the highest sequence would drop it.
type turns struct {
	seed maphash.Seed
	of   [64]chan *turn // a thing has one of them by its hash; it holds its turn while nobody has that
}

// turn is the right to publish. It knows the last sequence that was given under it.
type turn struct {
	last uint64
	back chan *turn
}

func newTurns() turns {
	t := turns{seed: maphash.MakeSeed()}
	for i := range t.of {
		t.of[i] = make(chan *turn, 1)
		t.of[i] <- &turn{back: t.of[i]}
	}
	return t
}

// wait returns the turn of a thing when nobody else has it, or the context's error. Its site makes no difference: a
// connection's events are about its sites, or about none, and a receiver compares what has the same subject.
func (t *turns) wait(ctx context.Context, id string) (*turn, error) {
	select {
	case next := <-t.of[maphash.String(t.seed, id)%uint64(len(t.of))]:
		return next, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// leave hands the turn on.
func (t *turn) leave() { t.back <- t }
