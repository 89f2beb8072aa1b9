package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// remains is what a relay that has ended had stored.
type remains struct {
	cursors    map[string]cursor.Document // by callback
	lanes      map[string]cursor.Lane     // by callback and order, divided by a dot
	watermarks map[int]uint64             // by shard
	polls      map[string]relay.Poll      // by connection
	refreshes  map[string]string          // ids of the refreshes under way, by connection
	consents   map[string]bool            // connections that need a consent
}

// archive is what the logs hold, gathered over all of the relay's ends: they only grow.
type archive struct {
	events []logged              // the whole log
	byID   map[string]logged     // the same, by event id
	pages  map[string]store.Page // by the correlation id of the vendor's response
	polls  map[string]bool       // poll ids that have a page
	read   map[string]uint64     // up to where a connection's pages are read
}

// logged is an entry of the log with the id of its event.
type logged struct {
	store.Stored
	id string
}

func newArchive() *archive {
	return &archive{byID: map[string]logged{}, pages: map[string]store.Page{},
		polls: map[string]bool{}, read: map[string]uint64{}}
}

// examine opens a copy of the data directory, so that the next start finds what the last end left.
func (w *world) examine(a *archive) remains {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.env["TMPDIR"], "remains-")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // the test's own directory goes in the end anyway
	copied := filepath.Join(dir, "data")
	if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	server, err := natsd.Start(natsd.Config{Dir: copied, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer server.Stop()
	nc, err := server.Connect()
	if err != nil {
		w.t.Fatal(err)
	}
	defer nc.Close()
	keys, err := store.KeysFromFile(copied)
	if err != nil {
		w.t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	s, err := store.Open(ctx, store.Config{
		Conn: nc, Sealer: sealer, Log: slog.New(slog.DiscardHandler),
		Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 30 * 24 * time.Hour},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := w.read(ctx, s, a)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) read(ctx context.Context, s *store.Store, a *archive) (remains, error) {
	r := remains{
		cursors: map[string]cursor.Document{}, lanes: map[string]cursor.Lane{}, watermarks: map[int]uint64{},
		polls: map[string]relay.Poll{}, refreshes: map[string]string{}, consents: map[string]bool{},
	}
	var errs []error
	bad := func(key string, err error) { errs = append(errs, errors.New("unreadable: "+key), err) }
	documents, err := s.Cursors.All(ctx, store.CallbackCursors.Everywhere(), bad)
	errs = append(errs, err)
	for _, d := range documents {
		_, id, _, _ := store.ParseCursorKey(d.Key)
		r.cursors[id] = d.Value
	}
	lanes, err := s.Lanes.All(ctx, store.CallbackCursors.Everywhere(), bad)
	errs = append(errs, err)
	for _, l := range lanes {
		_, id, order, _ := store.ParseCursorKey(l.Key)
		r.lanes[id+"."+order] = l.Value
	}
	for _, c := range w.receivers {
		shard := relay.ShardOf(c.ID)
		mark, _, err := s.Watermarks.Get(ctx, store.WatermarkKey(shard, "events"))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			errs = append(errs, err)
		}
		r.watermarks[shard] = mark.Position
	}
	for _, site := range w.sites {
		if err := readConnection(ctx, s, site, &r, a); err != nil {
			errs = append(errs, err)
		}
	}
	for more := true; more; {
		var list []store.Stored
		list, more, err = s.Events.Scan(ctx, uint64(len(a.events))+1, nil, 1000)
		if err != nil {
			return r, errors.Join(append(errs, err)...)
		}
		for _, e := range list {
			var ev struct{ ID string }
			if err := json.Unmarshal(e.Body, &ev); err != nil {
				return r, fmt.Errorf("the log at %d: %w", e.Seq, err)
			}
			l := logged{e, ev.ID}
			a.events = append(a.events, l)
			a.byID[l.id] = l
		}
	}
	return r, errors.Join(errs...)
}

func readConnection(ctx context.Context, s *store.Store, id string, r *remains, a *archive) error {
	poll, _, err := s.Polls.Get(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	r.polls[id] = poll
	token, _, err := s.Tokens.Token(ctx, id)
	if err != nil && !errors.Is(err, relay.ErrNoToken) {
		return err
	}
	if token.Intent != nil {
		r.refreshes[id] = token.Intent.ID
	}
	r.consents[id] = token.ConsentRequiredSince != nil
	for more := true; more; {
		var pages []store.Page
		if pages, more, err = s.Inbox.Scan(ctx, id, a.read[id]+1, 1000); err != nil {
			return err
		}
		for _, p := range pages {
			a.pages[p.CorrelationID], a.polls[p.PollID], a.read[id] = p, true, p.Seq
		}
	}
	return nil
}

// settled reports whether the stored cursor of a callback is through with an entry of the log: its
// document is past the entry, and no lane lists it as waiting. A round of writes ends with the
// document. Lanes that were stored before it belong to a write of the cursor that did not come to
// its end.
func (r remains) settled(callback string, seq uint64, order string) bool {
	waits, _ := r.inLane(callback, seq, order)
	return !waits && r.passed(callback, seq)
}

// claimed reports whether any stored document claims that a callback is through with an entry. A
// lane alone may do so, by knowing of the entry and not listing it. What is claimed will never be
// delivered, so it must have been.
func (r remains) claimed(callback string, seq uint64, order string) bool {
	waits, through := r.inLane(callback, seq, order)
	return through || !waits && r.passed(callback, seq)
}

// inLane returns what the lane of an order records of an entry, if there is a lane and it knows of
// the entry.
func (r remains) inLane(callback string, seq uint64, order string) (waits, through bool) {
	lane, ok := r.lanes[callback+"."+order]
	if !ok {
		return false, false
	}
	known := lane.OpenFrom - 1
	if lane.OpenFrom == 0 {
		known = lane.Entries[len(lane.Entries)-1] // one without either is not valid
	}
	if seq <= known {
		waits = slices.Contains(lane.Entries, seq)
		return waits, !waits
	}
	return lane.OpenFrom != 0, false
}

// passed reports whether the document of a callback has an entry behind it.
func (r remains) passed(callback string, seq uint64) bool {
	d, ok := r.cursors[callback]
	if !ok {
		return false
	}
	position := d.Position
	if !d.Behind {
		position = max(position, r.watermarks[relay.ShardOf(callback)])
	}
	return seq <= position || slices.ContainsFunc(d.Done, func(done cursor.Range) bool {
		return done[0] <= seq && seq <= done[1]
	})
}

// tell describes what is stored of a callback and of an order there.
func (r remains) tell(callback, order string) string {
	lane, ok := r.lanes[callback+"."+order]
	return fmt.Sprintf("cursor %+v, watermark %d, lane (%t) %+v",
		r.cursors[callback], r.watermarks[relay.ShardOf(callback)], ok, lane)
}

// interrupted returns the poll that was under way, if what it brought is not in the inbox.
func (r remains) interrupted(connection string, a *archive) (relay.PollIntent, bool) {
	intent := r.polls[connection].Intent
	if intent == nil || a.polls[intent.PollID] {
		return relay.PollIntent{}, false
	}
	return *intent, true
}
