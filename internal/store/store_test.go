package store_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

const order = "5f0c1c2e-6a64-4a2c-9d55-0a3f3a9f7b11"

func open(t *testing.T, dir string) *store.Store { return openWith(t, dir, nil) }

func openWith(t *testing.T, dir string, room *store.Room) *store.Store {
	t.Helper()
	keys, err := store.KeysFromFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn:     natstest.StartIn(t, dir),
		Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
		Sealer:   sealer, Log: slog.New(slog.DiscardHandler), Room: room,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func orderEvent(t *testing.T, sequence uint64) relay.Event {
	t.Helper()
	ev, err := relay.NewOrderEvent("https://relay.test", "leeds", order, relay.TypeOrderUpdated, sequence,
		time.Now(), relay.OrderData{
			Order: []byte(`{"Status":"New","Price":12.50}`), Origin: relay.OriginNotification,
		})
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func TestBucketIsCompareAndSet(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	c := relay.Connection{ID: "a", Level: relay.LevelSite, Site: "leeds"}
	if _, _, err := s.Connections.Get(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a document that is not there: %v", err)
	}
	rev, err := s.Connections.Create(ctx, "a", c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connections.Create(ctx, "a", c); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("creating twice: %v", err)
	}
	if _, err := s.Connections.Update(ctx, "a", c, rev+7); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("updating at another revision: %v", err)
	}
	c.Site = "york"
	if rev, err = s.Connections.Update(ctx, "a", c, rev); err != nil {
		t.Fatal(err)
	}
	if got, at, err := s.Connections.Get(ctx, "a"); err != nil || got.Site != "york" || at != rev {
		t.Fatalf("got %+v at %d, %v", got, at, err)
	}
	if err := s.Connections.Delete(ctx, "a", rev); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connections.Create(ctx, "a", c); err != nil {
		t.Fatalf("creating after deleting: %v", err)
	}
}

func TestPutAllEndsEachForItself(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	var puts []store.Put[relay.Poll]
	for i := range 100 {
		puts = append(puts, store.Put[relay.Poll]{Key: fmt.Sprintf("c%d", i), Value: relay.Poll{Epoch: 1}})
	}
	puts[50].Revision = 99
	for i, r := range s.Polls.PutAll(ctx, puts) {
		if i == 50 != errors.Is(r.Err, store.ErrConflict) || (i != 50 && r.Err != nil) {
			t.Fatalf("put %d: %v", i, r.Err)
		}
	}
	all, err := s.Polls.All(ctx, "", func(key string, err error) { t.Errorf("%s: %v", key, err) })
	if err != nil || len(all) != 99 {
		t.Fatalf("%d documents, %v", len(all), err)
	}
}

// A lane that was changed and then removed must stay away when the process is killed: what it held
// before would be delivered again.
func TestWhatIsRemovedDoesNotComeBack(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	s := open(t, dir)
	const lanes = 40
	key := func(i int) string { return fmt.Sprintf("callback.x.%d", i) }
	removed := func(i int) bool { return i%4 < 2 }
	var remove []store.Removal
	for i := range lanes {
		revision, err := s.Lanes.Create(ctx, key(i), cursor.Lane{V: 1, Order: "o", Entries: []uint64{1, 2}})
		if err == nil && i%2 == 0 {
			_, err = s.Lanes.Update(ctx, key(i), cursor.Lane{V: 1, Order: "o", Entries: []uint64{2}}, revision)
		}
		if err != nil {
			t.Fatal(err)
		}
		if removed(i) {
			remove = append(remove, store.Removal{Key: key(i)})
		}
	}
	for _, r := range s.Lanes.Remove(ctx, remove) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	killed := filepath.Join(t.TempDir(), "killed") // the disk as a kill would leave it
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = open(t, killed)
	for i := range lanes {
		if _, _, err := s.Lanes.Get(ctx, key(i)); errors.Is(err, store.ErrNotFound) != removed(i) {
			t.Errorf("lane %d after the kill: %v, removed %t", i, err, removed(i))
		}
	}
	all, err := s.Lanes.All(ctx, "callback.x", func(key string, err error) { t.Errorf("%s: %v", key, err) })
	if err != nil || len(all) != lanes/2 {
		t.Fatalf("%d lanes listed, %v", len(all), err)
	}
	// A lane that comes again goes over the marker.
	if r := s.Lanes.PutAll(ctx, []store.Put[cursor.Lane]{
		{Key: key(0), Value: cursor.Lane{V: 1, Order: "o", Entries: []uint64{3}}}}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
}

func TestEventsAreStoredUnderTheirConditionAndHeardOnlyThen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nc := natstest.StartIn(t, dir)
	s, err := store.Open(t.Context(), store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	live, err := nc.SubscribeSync("audatex.leeds.>")
	if err != nil {
		t.Fatal(err)
	}
	ref := store.InboxRef{Connection: "a", Seq: 3, Index: 1}
	first, err := s.Events.Publish(ctx, orderEvent(t, 1), ref, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Events.Publish(ctx, orderEvent(t, 2), ref, 0); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("publishing over a stale position: %v", err)
	}
	second, err := s.Events.Publish(ctx, orderEvent(t, 3), ref, first)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{first, second} {
		m, err := live.NextMsg(5 * time.Second)
		if err != nil || m.Header.Get("Nats-Sequence") != fmt.Sprint(want) {
			t.Fatalf("live message %+v, %v; want position %d", m, err, want)
		}
	}
	if n, _, _ := live.Pending(); n != 0 {
		t.Fatalf("%d live messages of refused events", n)
	}
	last, err := s.Events.LastOf(ctx, "leeds", order)
	if err != nil || last.Seq != second || last.Inbox != ref ||
		last.Type != relay.TypeOrderUpdated || last.Order != order {
		t.Fatalf("last event %+v, %v", last, err)
	}
	if !bytes.Contains(last.Body, []byte(`"Price":12.50`)) {
		t.Fatalf("digits changed: %s", last.Body)
	}
	events, more, err := s.Events.Scan(ctx, 1, []string{topology.SiteFilter("leeds")}, 1)
	if err != nil || len(events) != 1 || !more || events[0].Seq != first {
		t.Fatalf("first page %+v, more %v, %v", events, more, err)
	}
	if events, more, err = s.Events.Scan(ctx, second+1, nil, 10); err != nil || len(events) != 0 || more {
		t.Fatalf("past the end: %+v, more %v, %v", events, more, err)
	}
}

func TestTailFollows(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tail, err := s.Events.Tail(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Stop()
	var expected uint64
	for i := range uint64(50) {
		if expected, err = s.Events.Publish(ctx, orderEvent(t, i+1), store.InboxRef{}, expected); err != nil {
			t.Fatal(err)
		}
		m, err := tail.Next(ctx)
		if err != nil || m.Seq != expected {
			t.Fatalf("message %d, %v; want %d", m.Seq, err, expected)
		}
	}
}

func TestInboxKeepsThePageAndItsEnvelope(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	page := store.Page{
		PollID: relay.NewID(), Connection: "a", Generation: "g", ReceivedAt: time.Now().UTC().Round(0), Site: "leeds",
		Sites: map[string]string{"4711": "york"}, Level: relay.LevelSite, CorrelationID: "x",
		Body: []byte("[ {\"Topic\": 1.50} ]\n"), Truncated: true,
		Encoding: "deflate, exi",
	}
	seq, err := s.Inbox.Append(ctx, page)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Inbox.Append(ctx, page); err != nil || again != seq {
		t.Fatalf("the same poll stored again at %d, %v", again, err)
	}
	page.Seq = seq
	got, err := s.Inbox.Last(ctx, "a")
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", page) {
		t.Fatalf("got  %+v, %v\nwant %+v", got, err, page)
	}
	if _, err := s.Inbox.Append(ctx, store.Page{PollID: "b", Connection: "b", Body: []byte("[]")}); err != nil {
		t.Fatal(err)
	}
	pages, more, err := s.Inbox.Scan(ctx, "a", 1, 10)
	if err != nil || len(pages) != 1 || more {
		t.Fatalf("%d pages, more %v, %v", len(pages), more, err)
	}
}

func TestAttemptsWalkNewestFirst(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	var previous uint64
	for i := range 5 {
		r := s.Attempts.AppendAll(ctx, []relay.AttemptBatch{
			{Callback: "a", Generation: "g", Previous: previous, Records: []relay.AttemptRecord{{Number: i}}}})
		if r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
		previous = r[0].Seq
	}
	if r := s.Attempts.AppendAll(ctx,
		[]relay.AttemptBatch{{Callback: "a", Previous: previous - 1}}); !errors.Is(r[0].Err, store.ErrConflict) {
		t.Fatalf("appending after another batch than the last: %v", r[0].Err)
	}
	var numbers []int
	err := s.Attempts.Walk(ctx, "a", "g", 0, func(_ uint64, _ time.Time, b relay.AttemptBatch) bool {
		numbers = append(numbers, b.Records[0].Number)
		return len(numbers) < 4
	})
	if err != nil || fmt.Sprint(numbers) != "[4 3 2 1]" {
		t.Fatalf("walked %v, %v", numbers, err)
	}
}

// The newest attempts are found of more callbacks than the server finds the last messages of in one
// request.
func TestAttemptsOfManyCallbacksAreMerged(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	const callbacks = jsapi.MaxLastOf + 1
	of, batches := map[string]string{}, []relay.AttemptBatch{}
	for i := range callbacks {
		id := fmt.Sprintf("c%d", i)
		of[id] = "g"
		batches = append(batches,
			relay.AttemptBatch{Callback: id, Generation: "g", Records: []relay.AttemptRecord{{Number: i}}})
	}
	for _, r := range s.Attempts.AppendAll(ctx, batches) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	var found []uint64
	err := s.Attempts.Newest(ctx, store.AttemptsQuery{Callbacks: of},
		func(seq uint64, _ time.Time, _ relay.AttemptBatch) bool {
			found = append(found, seq)
			return true
		})
	if err != nil || len(found) != callbacks || found[0] != callbacks ||
		!slices.IsSortedFunc(found, func(a, b uint64) int { return cmp.Compare(b, a) }) {
		t.Errorf("found %d of %d: %v", len(found), callbacks, err)
	}
}

// Of what is too large, only the first events come with their bodies, and one does in any case.
func TestEventsComeWithinABound(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	var last uint64
	size := 0
	for i := range 5 {
		ev := orderEvent(t, uint64(i+1))
		body, err := relay.Encode(ev)
		if err != nil {
			t.Fatal(err)
		}
		size = len(body)
		if last, err = s.Events.Publish(ctx, ev, store.InboxRef{}, last); err != nil {
			t.Fatal(err)
		}
	}
	for bytes, want := range map[int]int{1: 1, 2 * size: 2, 100 * size: 4} {
		events, more, err := s.Events.ScanWithin(ctx, 1, nil, 4, bytes)
		if err != nil || len(events) != 4 || !more {
			t.Fatalf("%d events, more %t: %v", len(events), more, err)
		}
		for i, ev := range events {
			if ev.Seq != uint64(i+1) || ev.Order != order || (ev.Body != nil) != (i < want) {
				t.Errorf("within %d bytes event %d has %d", bytes, ev.Seq, len(ev.Body))
			}
		}
	}
}

func TestSecretsAreSealedOnTheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, ctx := open(t, dir), t.Context()
	cb := relay.Callback{ID: "a", Secrets: relay.CallbackSecrets{
		Signing: []relay.SigningSecret{{Secret: "whsec_clearly-visible-1"}},
		Headers: map[string]string{"X-Key": "clearly-visible-2"},
		Auth:    &relay.Auth{Type: "bearer", Token: "clearly-visible-3"},
	}}
	cb.SetURL("https://bms.example/hooks/clearly-visible-6?token=clearly-visible-7&clearly-visible-8")
	if _, err := s.Callbacks.Create(ctx, "a", cb); err != nil {
		t.Fatal(err)
	}
	rec := relay.TokenRecord{AccessToken: relay.NewSecret("clearly-visible-4"),
		RefreshToken: relay.NewSecret("clearly-visible-5")}
	if _, err := s.Tokens.SaveToken(ctx, "a", rec, 0); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.Callbacks.Get(ctx, "a")
	if err != nil || got.Secrets.Headers["X-Key"] != "clearly-visible-2" ||
		got.Secrets.Auth.Token != "clearly-visible-3" || got.Secrets.URL != cb.Secrets.URL ||
		got.ShownURL != "https://bms.example/hooks/[redacted]?[redacted]" {
		t.Fatalf("callback read back %#v, %v", got.Secrets.Auth, err)
	}
	token, _, err := s.Tokens.Token(ctx, "a")
	if err != nil || !token.RefreshToken.Equal(rec.RefreshToken) {
		t.Fatalf("token read back: %v", err)
	}
	var files int
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		if bytes.Contains(b, []byte("clearly-visible")) {
			t.Errorf("%s holds a secret in the clear", path)
		}
		return err
	})
	if err != nil || files < 5 {
		t.Fatalf("%d files, %v", files, err)
	}
	if _, err := store.NewSealer([]byte("{}")); err == nil {
		t.Fatal("an empty keyset was taken")
	}
}

func TestAnotherKeyOpensNothing(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	var stores [2]*store.Store
	for i := range stores {
		keys, err := store.NewKeys()
		if err != nil {
			t.Fatal(err)
		}
		sealer, err := store.NewSealer(keys)
		if err != nil {
			t.Fatal(err)
		}
		stores[i], err = store.Open(t.Context(), store.Config{
			Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer,
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	secrets := relay.CallbackSecrets{Auth: &relay.Auth{Type: "bearer", Token: "t"}}
	if _, err := stores[0].Callbacks.Create(t.Context(), "a", relay.Callback{ID: "a", Secrets: secrets}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := stores[1].Callbacks.Get(t.Context(), "a"); err == nil || got.Secrets.Auth != nil {
		t.Fatalf("read with another key: %v", err)
	}
}

func TestGateCutsBetweenTwoWrites(t *testing.T) {
	t.Parallel()
	cut := errors.New("cut")
	var hidden bool
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Log: slog.New(slog.DiscardHandler),
		Gate: store.Gate{After: func(w store.Write) error {
			if !hidden && w.Subject == "$KV.relay_polls.a" {
				hidden = true
				return cut
			}
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Polls.Create(t.Context(), "a", relay.Poll{Epoch: 4}); !errors.Is(err, cut) {
		t.Fatalf("the answer was not hidden: %v", err)
	}
	if got, _, err := s.Polls.Get(t.Context(), "a"); err != nil || got.Epoch != 4 {
		t.Fatalf("what was written before the cut: %+v, %v", got, err)
	}
}

func TestRemovalIsConditionalOnTheRevision(t *testing.T) {
	t.Parallel()
	s, ctx := open(t, t.TempDir()), t.Context()
	lane := cursor.Lane{V: 1, Order: "o", Entries: []uint64{1, 2}}
	old, err := s.Lanes.Create(ctx, "callback.x.o", lane)
	if err != nil {
		t.Fatal(err)
	}
	now, err := s.Lanes.Update(ctx, "callback.x.o", lane, old)
	if err != nil {
		t.Fatal(err)
	}
	if r := s.Lanes.Remove(ctx, []store.Removal{{Key: "callback.x.o", Revision: old}}); !errors.Is(r[0].Err,
		store.ErrConflict) {
		t.Fatalf("removing what has changed: %v", r[0].Err)
	}
	if r := s.Lanes.Remove(ctx, []store.Removal{{Key: "callback.x.o", Revision: now}}); r[0].Err != nil {
		t.Fatalf("removing what it is: %v", r[0].Err)
	}
	if _, _, err := s.Lanes.Get(ctx, "callback.x.o"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("after the removal: %v", err)
	}
	if r := s.Lanes.Remove(ctx, []store.Removal{{Key: "callback.x.o", Revision: now}}); !errors.Is(r[0].Err,
		store.ErrConflict) {
		t.Fatalf("removing it again: %v", r[0].Err)
	}
}

// Only the lease's bucket and those with markers support documents that expire. Both the first
// write and a later one set for how long.
func TestADocumentWithATimeGoesByItself(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lane := cursor.Lane{V: 1, Order: "o", Entries: []uint64{1}}
	key, put := "callback.x.o", store.Put[cursor.Lane]{Key: "callback.x.o", Value: lane, TTL: 2 * time.Second}
	r := s.Lanes.PutAll(ctx, []store.Put[cursor.Lane]{put})
	if r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	put.Revision = r[0].Seq
	written := time.Now()
	if r = s.Lanes.PutAll(ctx, []store.Put[cursor.Lane]{put}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	watch, stop := context.WithCancel(ctx)
	if err := s.Lanes.Watch(watch, func(e store.Entry[cursor.Lane]) {
		if e.Key == key && e.Deleted {
			stop()
		}
	}, func() {}, func(key string, err error) { t.Error(key, err) }); ctx.Err() != nil {
		t.Fatalf("it is still there: %v", err)
	}
	if lived := time.Since(written); lived < 2*time.Second {
		t.Fatalf("it lived for %s only", lived)
	}
	put.Revision = 0 // over the marker that it left
	if r = s.Lanes.PutAll(ctx, []store.Put[cursor.Lane]{put}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
}
