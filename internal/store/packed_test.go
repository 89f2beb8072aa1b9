package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// manyRecords returns the records of n attempts, of as many orders.
func manyRecords(n int) []relay.AttemptRecord {
	records := make([]relay.AttemptRecord, n)
	for i := range records {
		records[i] = relay.AttemptRecord{
			Event: fmt.Sprintf("event-%d", i), Seq: uint64(i + 1), Order: fmt.Sprintf("order-%d", i), Site: "leeds",
			Number: 1, At: time.Now().UTC(), Outcome: "success", Status: 200, Closing: relay.DeliveryDelivered,
			Headers: "date: Mon, 30 Nov 2026 10:00:00 GMT\n",
		}
	}
	return records
}

// lastAttempts returns the last batch as it is stored.
func lastAttempts(t *testing.T, nc *nats.Conn) []byte {
	t.Helper()
	m, err := streamOn(t, nc, "relay_attempts").GetLastMsgForSubject(t.Context(), "relay.attempts.>")
	if err != nil {
		t.Fatal(err)
	}
	return m.Data
}

// A large batch is stored compressed, a small one as JSON, and every way to read attempts reads both.
func TestLargeBatchesOfAttemptsAreStoredCompressed(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	s, ctx := openStoreOn(t, nc), t.Context()
	sizes, end := []int{200, 1, 2, 500}, relay.AttemptsEnd{}
	for _, n := range sizes {
		batch := end.Batch("a", "g", time.Now(), manyRecords(n))
		r := s.Attempts.AppendAll(ctx, []relay.AttemptBatch{batch})[0]
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		end = batch.End(r.Seq)
		whole, err := batch.Encode()
		if err != nil {
			t.Fatal(err)
		}
		stored := lastAttempts(t, nc)
		switch compressed := !json.Valid(stored); {
		case compressed != (n > 2):
			t.Errorf("%d attempts are stored in %d bytes, compressed: %t", n, len(stored), compressed)
		case compressed && len(stored) > len(whole)/4, !compressed && !bytes.Equal(stored, whole):
			t.Errorf("%d attempts of %d bytes are stored in %d", n, len(whole), len(stored))
		}
	}
	if got, err := s.Attempts.End(ctx, "a"); err != nil || got.Position != end.Position || got.Generation != "g" {
		t.Errorf("the attempts end at %+v (%v), want %+v", got, err, end)
	}
	for name, read := range map[string]func(each func(relay.AttemptBatch) bool) error{
		"walk": func(each func(relay.AttemptBatch) bool) error {
			return s.Attempts.Walk(ctx, "a", "g", 0, func(_ uint64, _ time.Time, b relay.AttemptBatch) bool { return each(b) })
		},
		"newest": func(each func(relay.AttemptBatch) bool) error {
			return s.Attempts.Newest(ctx, store.AttemptsQuery{Callbacks: map[string]string{"a": "g"}},
				func(_ uint64, _ time.Time, b relay.AttemptBatch) bool { return each(b) })
		},
		"scan": func(each func(relay.AttemptBatch) bool) error {
			return s.Attempts.Scan(ctx, "a", "g", time.Time{}, end.Position, each)
		},
		"onwards": func(each func(relay.AttemptBatch) bool) error {
			stretch, err := s.Attempts.Onwards(ctx, 1, time.Time{}, []string{"a"}, "order-0", 10)
			for _, b := range stretch.Batches {
				each(b)
			}
			return err
		},
	} {
		var got []int
		if err := read(func(b relay.AttemptBatch) bool { got = append(got, len(b.Records)); return true }); err != nil {
			t.Fatal(name, err)
		}
		want := slices.Clone(sizes)
		switch name {
		case "walk", "newest":
			slices.Reverse(want)
		case "onwards": // those of one order alone
			want = []int{1, 1, 1, 1}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s finds batches of %v attempts, want %v", name, got, want)
		}
	}
}

// What cannot be unpacked is an error or passed over, as other bytes that are no batch, and takes no memory.
func TestBatchesThatCannotBeUnpacked(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	s, ctx := openStoreOn(t, nc), t.Context()
	tooLarge := s2.Encode(nil, make([]byte, 65<<20))
	for name, data := range map[string][]byte{
		"no block":  []byte("s\xff\xff\xff"),
		"cut":       append([]byte("s"), s2.Encode(nil, bytes.Repeat([]byte(`{"a":1}`), 1000))[:20]...),
		"too large": append([]byte("s"), tooLarge...),
		"no JSON":   append([]byte("s"), s2.Encode(nil, []byte("plain"))...),
		"empty":     nil,
	} {
		id := relay.NewID()
		if err := nc.Publish("relay.attempts."+id, data); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		end, err := s.Attempts.End(ctx, id)
		if err != nil || end.Position == 0 || end.Generation != "" {
			t.Errorf("%s: the attempts end at %+v, %v", name, end, err)
		}
		none := func(uint64, time.Time, relay.AttemptBatch) bool { t.Errorf("%s: a batch was read", name); return false }
		if err := s.Attempts.Walk(ctx, id, "g", 0, none); err == nil {
			t.Errorf("%s: a walk finds nothing wrong", name)
		}
		if err := s.Attempts.Newest(ctx, store.AttemptsQuery{Callbacks: map[string]string{id: "g"}}, none); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if stretch, err := s.Attempts.Onwards(ctx, 1, time.Time{}, []string{id}, "plain", 10); err != nil ||
			len(stretch.Batches) > 0 {
			t.Errorf("%s: %+v, %v", name, stretch, err)
		}
	}
}
