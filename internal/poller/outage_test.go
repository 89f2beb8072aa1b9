package poller_test

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestAHostThatAnswersNobodyIsLeftAlone: while the vendor responds with 500 to every connection, nothing is sent but a
// probe now and then; each connection reports that it fails, and none is punished for it: when the host responds again,
// all are polled in their turn.
func TestAHostThatAnswersNobodyIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	ids := []string{"a", "b", "c", "d", "e", "f"}
	for _, id := range ids {
		r.connect(id)
	}
	r.start()
	doc := func(id string) relay.Poll {
		doc, _, err := r.store.Polls.Get(t.Context(), id)
		if err != nil {
			return relay.Poll{}
		}
		return doc
	}
	all := func(what string, holds func(relay.Poll) bool) {
		t.Helper()
		eventually(t, what, func() bool {
			for _, id := range ids {
				if !holds(doc(id)) {
					return false
				}
			}
			return true
		})
	}
	done := func(d relay.Poll) bool {
		return d.Outcome != nil && d.Outcome.Result == "done" && d.FailingSince == nil
	}
	all("every connection is polled", done)

	if err := r.sandbox.SetFaults(sandbox.Faults{Share500: 1}); err != nil {
		t.Fatal(err)
	}
	all("every connection says that it fails", func(d relay.Poll) bool {
		return d.FailingSince != nil && d.Outcome.Error != ""
	})
	eventually(t, "nobody is asked any more", func() bool {
		_, err := r.client.Order(t.Context(), relay.NewSecret("anybody's"), "5f0c2a34-9d1e-4c6b-8a7f-0123456789ab", nil)
		return audatex.NotAsked(err)
	})
	failures := func() (n int) {
		for _, id := range ids {
			n += doc(id).Failures
		}
		return n
	}
	sent := func() (n uint64) {
		for _, of := range r.sandbox.Counters().Requests {
			n += uint64(of)
		}
		return n
	}
	before, failed := sent(), failures()
	pause(t, 300*time.Millisecond) // fifteen intervals
	// those that were under way
	if n, more := sent()-before, failures()-failed; n > uint64(len(ids)) || more > len(ids) {
		t.Errorf("%d requests to a host that answers nobody, %d failures more", n, more)
	}

	if err := r.sandbox.SetFaults(); err != nil {
		t.Fatal(err)
	}
	healed := time.Now()
	// What a user waits for is always asked, and its response lets the others through.
	if _, err := audatex.NewSession(r.client, r.tokens, "a", relay.LevelSite).Whoami(t.Context()); err != nil {
		t.Fatal(err)
	}
	all("every connection is polled again", func(d relay.Poll) bool { return done(d) && d.Outcome.At.After(healed) })
	if n := r.told(relay.KindGapSuspected); n != 0 {
		t.Errorf("%d gaps told", n)
	}
}

// pause lets some time pass in which nothing is to happen.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

// TestAConnectionIsPolledAtOnceAndThenSoonerForAWhile: who connects a site and makes an order does not wait for the
// interval.
func TestAConnectionIsPolledAtOnceAndThenSoonerForAWhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.startWith(20*time.Second, 50*time.Millisecond, time.Hour)
	r.connect("a")
	eventually(t, "the subscription", r.subscribed)
	for n := 1; n <= 3; n++ { // the second and third because something came
		r.order()
		eventually(t, "the notification is stored", func() bool {
			_, stored := r.notifications("a")
			return stored == n
		})
	}
	doc, _, err := r.store.Polls.Get(t.Context(), "a")
	if err != nil || doc.SoonerUntil == nil || time.Until(*doc.SoonerUntil) < 50*time.Minute {
		t.Errorf("%+v, %v", doc, err)
	}
}
