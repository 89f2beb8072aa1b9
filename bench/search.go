package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	searchCallbacks = 10
	searchBatch     = 5 // attempts in one batch, as a callback of some deliveries a second writes them
	searchRepeats   = 7
)

// measureSearch fills the log of attempts, ten attempts for each event, and measures how long a
// request of each search takes: its first page, the middle one of several tries.
func (b *bench) measureSearch() {
	dir := filepath.Join(b.dir, "search")
	p := b.start(dir)
	for c := range searchCallbacks {
		must(p.put("/v1/callbacks/"+searched(c), map[string]any{"url": b.receiver.base + "/none", "paused": true}))
	}
	must(p.stop(syscall.SIGTERM))
	b.fill(dir, b.sizes.searched/searchCallbacks)
	middle, ev := b.fillAttempts(dir)

	p = b.start(dir)
	defer end(func() error { return p.stop(syscall.SIGTERM) })
	say("search_attempts", "%d", b.sizes.searched)
	until := url.QueryEscape(middle.Format(time.RFC3339Nano))
	for _, q := range []struct{ name, path string }{
		{"newest", "/v1/deliveries"},
		{"of_a_callback", "/v1/deliveries?callback=" + searched(3)},
		{"until_the_middle", "/v1/callbacks/" + searched(3) + "/deliveries?until=" + until},
		{"scan_one_request", "/v1/deliveries?outcome=none"},
		{"of_an_order_one_request", "/v1/callbacks/" + searched(3) + "/deliveries?orders=" + ev.Order},
		{"stats", "/v1/callbacks/" + searched(3) + "/stats"},
		{"of_an_event", "/v1/events/" + idOf(ev) + "/deliveries"},
		{"of_a_callback_and_an_event", "/v1/callbacks/" + searched(3) + "/deliveries/" + idOf(ev)},
		{"timeline", "/v1/orders/" + ev.Order + "/timeline"},
		{"order_by_reference", "/v1/orders?reference=PO-" + ev.Order},
	} {
		var took []float64
		for range searchRepeats {
			began := time.Now()
			_ = get(p.call(http.MethodGet, q.path, nil))
			took = append(took, time.Since(began).Seconds()*1000)
		}
		slices.Sort(took)
		say("search_"+q.name+"_ms", "%.1f", took[len(took)/2])
	}
}

func searched(c int) string { return fmt.Sprintf("search-%d", c) }

func idOf(ev store.Stored) string {
	var e struct{ ID string }
	must(json.Unmarshal(ev.Body, &e))
	return e.ID
}

// fillAttempts writes one delivery of each event to each callback, and orders with references. It
// returns a time and an event in the middle.
func (b *bench) fillAttempts(dir string) (middle time.Time, chosen store.Stored) {
	s, closing := b.open(dir)
	defer closing()
	ends := make([]relay.AttemptsEnd, searchCallbacks)
	generations := make([]string, searchCallbacks)
	for c := range searchCallbacks {
		cb, _, err := s.Callbacks.Get(b.ctx, searched(c))
		must(err)
		generations[c] = cb.Generation
	}
	written := 0
	write := func(events []store.Stored) {
		batches := make([]relay.AttemptBatch, searchCallbacks)
		for c := range batches {
			batches[c] = ends[c].Batch(searched(c), generations[c], time.Now(), attemptsOf(events))
		}
		for c, r := range s.Attempts.AppendAll(b.ctx, batches) {
			must(r.Err)
			ends[c] = batches[c].End(r.Seq)
		}
		if written += len(events) * searchCallbacks; middle.IsZero() && written >= b.sizes.searched/2 {
			middle, chosen = time.Now().UTC(), events[0]
			must(s.References.Set(b.ctx, relay.ReferenceKey("PO-"+chosen.Order, chosen.Site, chosen.Order),
				relay.Referenced{ListedAt: middle}))
			_ = get(s.Orders.Create(b.ctx, chosen.Site+"."+chosen.Order, relay.OrderState{
				Site: chosen.Site, ID: chosen.Order, Reference: "PO-" + chosen.Order, UpdatedAt: middle, ReadAt: middle,
				Revision: 1, Sequence: 1,
			}))
		}
	}
	for from, more := uint64(1), true; more; {
		var events []store.Stored
		var err error
		events, more, err = s.Events.Scan(b.ctx, from, nil, 1_000)
		must(err)
		for some := range slices.Chunk(events, searchBatch) {
			write(some)
			from = some[len(some)-1].Seq + 1
		}
	}
	return middle, chosen
}

// attemptsOf returns the records of one successful attempt for each of the events.
func attemptsOf(events []store.Stored) []relay.AttemptRecord {
	records := make([]relay.AttemptRecord, len(events))
	for i, ev := range events {
		records[i] = relay.AttemptRecord{
			Event: idOf(ev), Seq: ev.Seq, Order: ev.Order, Site: ev.Site, Type: ev.Type, Number: 1,
			At: time.Now().UTC(), DurationMillis: float64(ev.Seq%97) + 1, Outcome: "success",
			Status: http.StatusNoContent, Bytes: len(ev.Body), Closing: relay.DeliveryDelivered,
			Phases: relay.Phases{FirstByte: 1.5}, Headers: "server: bench\n",
		}
	}
	return records
}
