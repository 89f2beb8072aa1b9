package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRunsReadWhatWasReadBefore: whenever something is wanted, in the end every order was read
// after that, and none was read more often than something was wanted.
func TestRunsReadWhatWasReadBefore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var keys []string
		for n := range rapid.IntRange(1, 12).Draw(rt, "keys") {
			keys = append(keys, fmt.Sprintf("%02d", n))
		}
		var doc Reconciliation
		begun := ""
		// the last time that something was wanted, without and with what was delivered
		clock, wanted, wants := 0, map[bool]int{}, 0
		type when struct{ any, delivered int }
		read, reads := map[string]when{}, map[string]int{}
		want := func() {
			clock++
			wants++
			w := ReconcileWant{Causes: []ReconcileCause{CauseGap}, Since: time.Unix(int64(clock), 0),
				Delivered: rapid.Bool().Draw(rt, "delivered")}
			doc.Want(w, begun, time.Unix(int64(clock), 0))
			wanted[w.Delivered] = clock
		}
		want()
		for steps := 0; doc.Run != nil; steps++ {
			if steps > 1000 {
				rt.Fatal("it does not end")
			}
			if wants < 6 && rapid.IntRange(0, 3).Draw(rt, "want") == 0 {
				want()
			}
			left := doc.Run.Left(keys)
			if len(left) == 0 {
				doc.Finish(time.Unix(int64(clock), 0))
				continue
			}
			portion := left[:rapid.IntRange(1, len(left)).Draw(rt, "portion")]
			delivered := doc.Run.Delivered
			begun = portion[len(portion)-1]
			for _, key := range portion {
				clock++
				r := when{clock, read[key].delivered}
				if delivered {
					r.delivered = clock
				}
				read[key] = r
				reads[key]++
			}
			if wants < 6 && rapid.IntRange(0, 3).Draw(rt, "want meanwhile") == 0 {
				want()
			}
			if rapid.IntRange(0, 4).Draw(rt, "crash") == 0 { // the portion is read again
				begun = ""
				for _, key := range portion {
					reads[key]--
				}
				doc = doc.Clone()
				continue
			}
			doc.Run.Advance(begun)
			begun = ""
		}
		for _, key := range keys {
			if read[key].any < wanted[false] || read[key].delivered < wanted[true] {
				rt.Errorf("key %s was last read at %+v, wanted at %v", key, read[key], wanted)
			}
			if reads[key] > wants {
				rt.Errorf("key %s was read %d times, something was wanted %d times", key, reads[key], wants)
			}
		}
		if last := max(wanted[false], wanted[true]); doc.Last.WantedAt.Before(time.Unix(int64(last), 0)) {
			rt.Errorf("it says that all was read since %d, wanted at %d", doc.Last.WantedAt.Unix(), last)
		}
		if doc.Next != nil || doc.Last == nil {
			rt.Errorf("in the end: %+v", doc)
		}
	})
}

func TestARunReadsOnceWhatWasReadBeforeTheGap(t *testing.T) {
	t.Parallel()
	keys := []string{"a", "b", "c", "d", "e"}
	var doc Reconciliation
	now := time.Unix(1000, 0)
	doc.Want(ReconcileWant{Causes: []ReconcileCause{CauseGap}, Since: now}, "", now)
	doc.Run.Advance("b")
	doc.Want(ReconcileWant{Causes: []ReconcileCause{CauseNightly}, Since: now}, "c", now) // is being done
	doc.Want(ReconcileWant{Causes: []ReconcileCause{CauseAsked}, Since: now.Add(-time.Hour)}, "c", now)
	if got := doc.Run.Left(keys); !slices.Equal(got, []string{"c", "d", "e"}) {
		t.Errorf("left %v", got)
	}
	doc.Run.Advance("e")
	doc.Finish(now)
	if got := doc.Run.Left(keys); !slices.Equal(got, []string{"a", "b", "c"}) ||
		!slices.Equal(doc.Run.Causes, []ReconcileCause{CauseAsked}) || !doc.Run.Since.Equal(now.Add(-time.Hour)) {
		t.Errorf("then %v, %+v", got, doc.Run)
	}
	doc.Run.Advance("a")
	doc.Want(ReconcileWant{Causes: []ReconcileCause{CauseGap}, Since: now}, "a", now)
	doc.Run.Advance("c")
	doc.Finish(now)
	if got := doc.Run.Left(keys); !slices.Equal(got, []string{"d", "e", "a"}) {
		t.Errorf("at last %v", got)
	}
	doc.Run.Advance("d")
	if got := doc.Run.Left(append([]string{"0"}, keys...)); !slices.Equal(got, []string{"e", "0", "a"}) {
		t.Errorf("with one more %v", got)
	}
	doc.Run.Advance("a")
	if got := doc.Run.Left(keys); len(got) != 0 {
		t.Errorf("in the end %v", got)
	}
}

func TestClosedOrders(t *testing.T) {
	t.Parallel()
	for status, closed := range map[string]bool{
		"": false, "New": false, "Delivered": false, "ReturnRequested": false, "Cancelled": true, "cancelled": true,
		"ReturnAccepted": true, "ReturnRejected": true, "Archived": false,
	} {
		if IsClosed(status) != closed {
			t.Errorf("%q", status)
		}
	}
	if !IsDelivered("Delivered") || IsDelivered("Dispatched") {
		t.Error("delivered")
	}
	for key, want := range map[string]bool{"c.site.order": true, "c.site": false, "whole": false, "c..o": false,
		"c.s.o.x": false, ".s.o": false} {
		if _, _, _, ok := SplitOpenKey(key); ok != want {
			t.Errorf("%q", key)
		}
	}
	if c, s, o, _ := SplitOpenKey(OpenKey("a", "b", "c")); c+s+o != "abc" {
		t.Error(c, s, o)
	}
}
