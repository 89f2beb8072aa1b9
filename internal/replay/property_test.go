package replay

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

// bubbled hides what may not be called of a testing.T in a synctest bubble.
type bubbled struct{ testing.TB }

// Whatever the receiver responds, whatever becomes of the callback and its client, and wherever replicas die: the
// events of an order come in order, none is sent again once its end is recorded, nothing is sent while the callback is
// halted or to where it was before, what has ended is what the records have, and in the end everything has ended.
func TestAReplayKeepsItsPromises(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			s := newSimWorld(rt)
			s.load()
			defer func() { s.leave(true) }()
			for _, what := range rapid.SliceOfN(rapid.SampledFrom(simMoves), 0, 12).Draw(rt, "moves") {
				s.run(time.Duration(rapid.SampledFrom([]int{0, 1, 20, 500, 5_000, 60_000}).Draw(rt,
					"ms")) * time.Millisecond)
				synctest.Wait()
				s.move(what)
			}
			began := time.Now()
			for s.w.doc.Running() && !s.w.complete() && time.Since(began) < 2*24*time.Hour {
				if halted(s.target.Load()) {
					s.move("resume")
				}
				s.run(time.Hour)
				synctest.Wait()
			}
			s.judge(rt)
		})
	})
}

var simMoves = []string{"pause", "pause", "resume", "resume", "url", "narrow", "wide", "site", "client", "crash", "die",
	"die", "move", "expire", "test"}

// move makes one of the things happen that happen to a replay.
func (s *simWorld) move(what string) {
	switch what {
	case "pause":
		s.change(func(cb *relay.Callback, _ *relay.Client) { cb.Paused = true })
	case "resume":
		s.change(func(cb *relay.Callback, client *relay.Client) {
			cb.Paused, cb.Disabled, client.ID = false, nil, "shop"
			cb.Resumed++
		})
	case "url":
		s.change(func(cb *relay.Callback, _ *relay.Client) { cb.Resumed++ })
	case "narrow":
		s.narrowed = true
		s.change(func(cb *relay.Callback, _ *relay.Client) { cb.Filter.Sites = []string{"york"} })
	case "site":
		s.narrowed = true
		s.change(func(_ *relay.Callback, client *relay.Client) {
			client.AllSites, client.Sites = false, []string{"leeds"}
		})
	case "wide":
		s.change(func(cb *relay.Callback, client *relay.Client) { cb.Filter.Sites, client.AllSites = nil, true })
	case "client": // it is not known for a while
		s.change(func(_ *relay.Callback, client *relay.Client) { client.ID = "" })
	case "test": // a successful one
		s.r.Answers("bms", "one")
	case "expire":
		s.narrowed = true
		s.log.first.Add(uint64(len(s.log.events) / 8))
	case "move", "crash", "die": // to load, the client must be known
		if what == "die" {
			s.store(false)
		}
		s.leave(what != "move")
		s.change(func(_ *relay.Callback, client *relay.Client) { client.ID = "shop" })
		s.load()
	}
}

// judge compares what the replay has come to with what has happened.
func (s *simWorld) judge(t *rapid.T) {
	if !s.w.complete() || !s.w.doc.Running() {
		t.Fatalf("it has not come to its end: %+v, %d under way, %d wait, health %+v",
			s.w.doc, s.w.flying, s.w.cur.Unsettled(), s.w.cur.Health())
	}
	s.store(true)
	if n, bytes := s.w.atHand.Len(), s.r.memory.Used(); n+int(bytes) > 0 {
		t.Errorf("%d events of %d bytes are still at hand", n, bytes)
	}
	if problems := slices.Compact(s.problems); len(problems) > 0 {
		t.Fatal(problems)
	}
	var recorded relay.Progress
	ended := map[uint64]bool{}
	for _, rec := range s.records {
		if rec.Replayed == "" {
			continue
		}
		if ended[rec.Seq] {
			t.Errorf("event %d has ended twice", rec.Seq)
		}
		ended[rec.Seq] = true
		recorded.Add(rec.Replayed)
	}
	if recorded != s.w.doc.Progress {
		t.Errorf("it counts %+v, and the records are of %+v", s.w.doc.Progress, recorded)
	}
	if s.w.countUnread(); s.w.doc.Progress.Ended() != *s.w.doc.Matched {
		t.Errorf("%+v of %d have ended", s.w.doc.Progress, *s.w.doc.Matched)
	}
	if !s.narrowed && s.w.doc.Progress.Skipped > 0 {
		t.Errorf("%d were skipped although all were for the callback", s.w.doc.Progress.Skipped)
	}
	if delivered := s.w.doc.Progress.Delivered; delivered > len(s.accepted) ||
		!s.crashed && delivered < len(s.accepted) {
		t.Errorf("%d are counted as delivered, and %d were accepted", delivered, len(s.accepted))
	}
}
