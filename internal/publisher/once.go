package publisher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// onceTries bounds how often the log is read again because an event was published in the meantime.
const onceTries = 10

// Once is Operational for an event that must never be in the log twice, even if the process dies
// between publishing it and noting that it did. Since is when the thing that the event reports
// happened. An event of the same site, kind and id that entered the log after that, with the same
// details under the keys by, counts as this one. If two processes publish at the same moment, one
// of them finds the other's event, because each expects the log to end where it has read it.
func (p *Publisher) Once(
	ctx context.Context, site string, kind relay.Kind, id, message string, details map[string]any, since time.Time,
	by ...string,
) error {
	if site == "" {
		site = relay.NoSite
	}
	if err := checkSubject(kind, id); err != nil {
		return err
	}
	next, err := p.turns.wait(ctx, id)
	if err != nil {
		return err
	}
	defer next.leave()
	for range onceTries {
		var last uint64
		var there bool
		if last, there, err = p.publishedSince(ctx, site, kind, id, details, since, by); err != nil || there {
			return err
		}
		var ev relay.Event
		if ev, err = p.operational(next, site, kind, id, message, details); err != nil {
			return err
		}
		_, err = p.c.Store.Events.PublishOperationalAfter(ctx, ev, last)
		if err == nil {
			p.c.Metrics.operational(ev.Type)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnclear) {
			break
		}
	}
	return fmt.Errorf("publish operational event %s of %s: %w", kind, id, err)
}

// publishedSince returns the position of the last event of a site, kind and id, and whether one
// since then has the same details.
func (p *Publisher) publishedSince(
	ctx context.Context, site string, kind relay.Kind, id string, details map[string]any, since time.Time, by []string,
) (last uint64, there bool, err error) {
	want := fields(details, by)
	for from, more := uint64(0), true; more; {
		var events []store.Stored
		events, more, err = p.c.Store.Events.Scan(ctx, from,
			[]string{topology.OperationalSubject(site, string(kind), id)}, scanSize)
		if err != nil {
			return 0, false, fmt.Errorf("look for operational events %s of %s: %w", kind, id, err)
		}
		if len(events) == 0 {
			break
		}
		for _, stored := range events {
			last, from = stored.Seq, stored.Seq+1
			if stored.Time.Before(since) {
				continue
			}
			var ev relay.Event
			var data relay.Operational
			if json.Unmarshal(stored.Body, &ev) == nil && json.Unmarshal(ev.Data, &data) == nil &&
				fields(data.Details, by) == want {
				return last, true, nil
			}
		}
	}
	return last, false, nil
}

// fields encodes the details under some keys, for comparison.
func fields(details map[string]any, keys []string) string {
	values := make([]any, len(keys))
	for i, k := range keys {
		values[i] = details[k]
	}
	b, err := json.Marshal(values)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
