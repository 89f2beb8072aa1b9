package replay

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/each"
)

// current is the callback of a replay as it is configured now. It is safe for concurrent use.
type current struct {
	changes atomic.Uint64 // how often the callback or its client may have changed
	known   atomic.Pointer[known]
}

// known is a configuration that was read after so many changes.
type known struct {
	target  *delivery.Target
	changes uint64
}

// present returns the callback as it is configured now, nil if it is not registered any more. An attempt that has
// waited asks here again: its turn may come long after it was taken.
func (w *runner) present() *delivery.Target {
	changes := w.target.changes.Load()
	if k := w.target.known.Load(); k != nil && k.changes == changes {
		return k.target
	}
	target := w.r.target(w.callback)
	if target != nil && target.Callback.Generation != w.generation {
		target = nil
	}
	w.target.known.Store(&known{target, changes})
	return target
}

// retarget takes the present configuration of the callback. It returns false if that is not
// registered any more.
func (w *runner) retarget() bool {
	target := w.present()
	if target == nil {
		return false
	}
	if was := w.sel.callback; was == nil || !target.SameAs(was) {
		w.sel = w.sel.of(target)
		w.cur.SetPolicy(w.r.policy(shareOf(target.Callback)))
		w.dropPage() // it was selected by the one before
		if halted(target) {
			w.atHand.DropAll() // it may wait for days
		}
		if w.share != nil {
			w.share.configure(target)
		}
		if was != nil && halted(was) && !halted(target) {
			w.cur.ForgetFailingSince() // nothing could be sent
		}
		if carried := w.cur.Carried(); target.Callback.Resumed > carried.Resumed {
			carried.Resumed = target.Callback.Resumed
			w.cur.SetCarried(carried)
			w.cur.ResumeAll(time.Now())
		}
	}
	return true
}

// read offers what the replay selects to the cursor, until that has no room or there is no more.
func (w *runner) read(ctx context.Context) error {
	for w.cur.Room() {
		if w.page.through == 0 {
			at := w.cur.ReadFrom() - 1
			if at >= w.doc.Through {
				return nil
			}
			if err := w.readPage(ctx, at); err != nil {
				return err
			}
		}
		for len(w.page.entries) > 0 {
			switch e := w.page.entries[0]; w.cur.Offer(e) {
			case cursor.Full:
				return nil
			case cursor.Ignored, cursor.Laned: // it has ended, or waits for long
				w.atHand.Drop(e.Seq)
			case cursor.Accepted:
			}
			w.page.entries = w.page.entries[1:]
		}
		w.cur.Advance(w.page.through)
		w.page = page{}
	}
	return nil
}

// readPage reads the next page. Where most of the log is selected it reads the events whole, as one read for many costs
// far less than one for each, and keeps as many at hand as there is room for; the others are read when they are sent.
func (w *runner) readPage(ctx context.Context, at uint64) (err error) {
	most, bytes := capacity.PageEvents, 0
	if !w.sparse {
		most, bytes = capacity.NextPage(w.r.memory, w.r.bodies, w.bodySize)
	}
	p, err := w.sel.page(ctx, at, most, bytes)
	if err != nil {
		return err
	}
	if bytes > 0 && p.bodies > 0 {
		w.bodySize = p.bytes / p.bodies
	}
	w.sparse = p.read > 0 && float64(len(p.entries)) < selected*float64(p.read)
	for _, ev := range p.events {
		w.r.bodies.NoteSize(len(ev.Body))
		if w.atHand.Admits(ev) {
			w.atHand.Hold(ev)
		}
	}
	p.events = nil
	w.page = p
	return nil
}

// dropPage forgets a page of which not everything was offered.
func (w *runner) dropPage() {
	for _, e := range w.page.entries {
		w.atHand.Drop(e.Seq)
	}
	w.page = page{}
}

// refill reads what lanes have waiting beyond what they list.
func (w *runner) refill(ctx context.Context) error {
	for _, of := range w.cur.Refills() {
		p, err := w.sel.order(ctx, of.Order, of.From, of.Through)
		if err != nil {
			return err
		}
		seqs := each.Of(p.entries, func(e cursor.Entry) uint64 { return e.Seq })
		if p.through >= w.doc.Through { // nothing of the log behind the replay's end is its own
			p.through = max(p.through, of.Through)
		}
		w.cur.Refill(of, seqs, p.through)
	}
	return nil
}
