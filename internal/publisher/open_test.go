package publisher_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// TestOpenOrderIsListedBeforeItsFirstEvent follows every write of a publisher: an order's entry
// comes before the event that makes the order open for a connection, and costs a write only then.
func TestOpenOrderIsListedBeforeItsFirstEvent(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var writes []string
	s := open(t, natstest.Start(t), store.Gate{After: func(w store.Write) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case strings.Contains(w.Subject, ".parts.order."):
			writes = append(writes, "event")
		case strings.HasPrefix(w.Subject, "$KV.relay_open."):
			writes = append(writes, "list "+strings.TrimSuffix(strings.TrimPrefix(w.Subject, "$KV.relay_open."),
				"."+site+"."+order))
		}
		return nil
	}})
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := publisher.New(publisher.Config{Store: s, Log: quiet(), Now: func() time.Time { return now }})
	n := 0
	for _, step := range []struct {
		name       string
		connection string // "" reconciles
		status     string
		later      time.Duration
		want       []string
	}{
		{"first sight", "c", "New", 0, []string{"list c", "event"}},
		{"a change", "c", "Confirmed", time.Hour, []string{"event"}},
		{"a second connection", "d", "Confirmed", time.Hour, []string{"list d", "event"}},
		{"a reconciled change", "", "Dispatched", time.Hour, []string{"event"}},
		{"closed", "c", "Cancelled", time.Hour, []string{"event"}},
		{"still closed, seen by another connection", "e", "Cancelled", time.Hour, []string{"event"}},
		{"open again after all", "e", "New", time.Hour, []string{"list c", "list d", "list e", "event"}},
		{"in the next period", "d", "New", 31 * 24 * time.Hour, []string{"list c", "list d", "list e", "event"}},
		{"again in that period", "d", "Delivered", time.Hour, []string{"event"}},
		{"a reconciled change in the period after", "", "ReturnRequested", 31 * 24 * time.Hour,
			[]string{"list c", "list d", "list e", "event"}},
	} {
		now = now.Add(step.later)
		mu.Lock()
		writes = nil
		mu.Unlock()
		if n++; step.connection != "" {
			if got := publish(t, p, step.status, received(step.connection, n)); got != relay.Published {
				t.Fatalf("%s: %s", step.name, got)
			}
		} else {
			position, err := p.Begin(t.Context(), site, order, nil)
			if err != nil {
				t.Fatal(err)
			}
			if changed, _, err := p.Reconcile(t.Context(), position, reading(step.status)); err != nil || !changed {
				t.Fatalf("%s: changed %t, %v", step.name, changed, err)
			}
		}
		mu.Lock()
		if len(writes) > 1 {
			slices.Sort(writes[:len(writes)-1]) // several entries are written together
		}
		if !slices.Equal(writes, step.want) {
			t.Errorf("%s: wrote %q, want %q", step.name, writes, step.want)
		}
		mu.Unlock()
	}
	if e, _, err := s.Open.Get(t.Context(), relay.OpenKey("c", site, order)); err != nil || !e.ListedAt.Equal(now) {
		t.Errorf("entry %+v, %v", e, err)
	}
}

// TestEventWaitsForItsEntry: an order whose entry cannot be written gets no event yet.
func TestEventWaitsForItsEntry(t *testing.T) {
	t.Parallel()
	refuse := true
	s := open(t, natstest.Start(t), store.Gate{Before: func(w store.Write) error {
		if refuse && strings.HasPrefix(w.Subject, "$KV.relay_open.") {
			return store.ErrUnavailable
		}
		return nil
	}})
	p := newPublisher(s)
	if got := publish(t, p, "New", received("c", 1)); got != relay.StoreTrouble || len(events(t, s)) != 0 {
		t.Fatalf("outcome %s, %d events", got, len(events(t, s)))
	}
	refuse = false
	if got := publish(t, p, "New", received("c", 1)); got != relay.Published || len(events(t, s)) != 1 {
		t.Fatalf("outcome %s, %d events", got, len(events(t, s)))
	}
}
