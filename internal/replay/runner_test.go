package replay

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
)

// While nothing may be taken, what is due does not have the runner look again and again.
func TestAHaltedReplayRests(t *testing.T) {
	t.Parallel()
	for name, halt := range map[string]func(w *runner){
		"paused":   func(w *runner) { w.sel.callback.Callback.Paused = true },
		"disabled": func(w *runner) { w.sel.callback.Callback.Disabled = &relay.Disabled{} },
		"orphaned": func(w *runner) { w.sel.callback.Orphaned = true },
		"records":  func(w *runner) { w.storing.records = make([]relay.AttemptRecord, recordsMost) },
	} {
		r := &Replayer{c: Config{Schedule: DefaultSchedule}}
		w := &runner{
			lease: shardtest.Fixed(0, 1), cur: cursor.New(r.policy(4)),
			sel: &selection{callback: &delivery.Target{}},
		}
		w.cur.Offer(cursor.Entry{Seq: 1, Order: "a"})
		if wait := time.Until(w.nextLook()); wait > 0 {
			t.Fatalf("what is due waits for %s", wait)
		}
		halt(w)
		if wait := time.Until(w.nextLook()); wait < time.Minute {
			t.Errorf("%s: it looks again in %s", name, wait)
		}
	}
}
