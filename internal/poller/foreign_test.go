package poller_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// Something else in the queue's place is stored as it came at each poll, is no success, and is one suspected gap for as
// long as it lasts, whatever it contains: what waited at the vendor's may have gone with it.
func TestSomethingElseInTheQueuesPlaceIsOneGap(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	bodies := []string{"<html>Down for maintenance</html>", `{"Message":"An error has occurred."}`, `[{},7]`}
	r.instead.Store(&bodies[0])
	r.start()
	pages := func(body string) (n int) {
		all, _, err := r.store.Inbox.Scan(t.Context(), "a", 1, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if string(p.Body) == body && p.Entries == 1 {
				n++
			}
		}
		return n
	}
	for _, body := range bodies {
		r.instead.Store(&body)
		eventually(t, "it is polled twice", func() bool {
			_ = r.poller.PollNow(t.Context(), "a") // failures are polled ever more seldom
			return pages(body) >= 2
		})
	}
	doc := r.document("a")
	if doc.ForeignSince == nil || doc.FailingSince == nil || doc.GapSuspectedAt == nil ||
		doc.Outcome.Result != "malformed" || doc.Outcome.Notifications != 0 ||
		!strings.Contains(doc.Outcome.Error, "something else was sent in the queue's place") {
		t.Errorf("poll document %+v, outcome %+v", doc, doc.Outcome)
	}
	r.instead.Store(nil)
	r.order()
	eventually(t, "the queue is read again", func() bool {
		_ = r.poller.PollNow(t.Context(), "a")
		doc = r.document("a")
		return doc.FailingSince == nil && doc.Outcome != nil && r.sandbox.Counters().NotificationsHandedOut == 1
	})
	if doc.ForeignSince != nil || r.told(relay.KindGapSuspected) != 1 {
		t.Errorf("%d gaps told; foreign since %v", r.told(relay.KindGapSuspected), doc.ForeignSince)
	}
	r.instead.Store(&bodies[0])
	eventually(t, "the next time is told", func() bool {
		_ = r.poller.PollNow(t.Context(), "a")
		return r.told(relay.KindGapSuspected) == 2
	})
}

// A connection whose response is not in the store yet reports that.
func TestAConnectionThatCannotStoreSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.connect("a")
	r.gate.Store(&store.Gate{Before: func(w store.Write) error {
		if w.Subject == "relay.inbox.32.a" {
			return fmt.Errorf("%w: full", store.ErrUnavailable)
		}
		return nil
	}})
	r.start()
	eventually(t, "the subscription", r.subscribed)
	r.order()
	eventually(t, "it says so", func() bool {
		why, ok := r.poller.Unstored("a")
		return ok && strings.Contains(why, "held in memory")
	})
	r.gate.Store(nil)
	eventually(t, "it is stored", func() bool {
		why, ok := r.poller.Unstored("a")
		_, n := r.notifications("a")
		return ok && why == "" && n == 1
	})
}
