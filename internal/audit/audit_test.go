package audit

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Any sequence of pages has every request once, newest first, each with its end, wherever the pages
// meet.
func TestPagesMeet(t *testing.T) {
	t.Parallel()
	sealer, err := newSealer()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Sealer: sealer,
		Log:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	log := New(s.Audit)
	if page, err := log.Page(t.Context(), Query{Limit: 5}); err != nil || len(page.Entries) > 0 || page.Next != 0 {
		t.Errorf("the empty log is %+v, %v", page, err)
	}
	const requests = 60
	var positions []uint64
	for i := range requests { // each ends after the next two have begun
		position, err := log.Begin(t.Context(),
			relay.AuditRecord{Client: clientOf(i), Operation: "putClient", Path: "/v1/clients/x"})
		if err != nil {
			t.Fatal(err)
		}
		if positions = append(positions, position); i >= 2 {
			if err := log.End(t.Context(), positions[i-2],
				relay.AuditRecord{Status: 200 + i - 2, Client: clientOf(i - 2)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, client := range []string{"", "acme"} {
		for _, limit := range []int{7, 20, requests} {
			var got []Entry
			for q := (Query{Client: client, Limit: limit}); ; {
				page, err := log.Page(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, page.Entries...)
				if q.Before = page.Next; q.Before == 0 {
					break
				}
			}
			compare(t, client, positions, got)
		}
	}
}

// compare wants all requests of a client among those that began at these positions.
func compare(t *testing.T, client string, positions []uint64, got []Entry) {
	t.Helper()
	for i := len(positions) - 1; i >= 0; i-- {
		if client != "" && clientOf(i) != client {
			continue
		}
		if len(got) == 0 || got[0].Seq != positions[i] {
			t.Fatalf("request %d is missing before %d entries", i, len(got))
		}
		if end := got[0].Ended; i < len(positions)-2 && (end == nil || end.Status != 200+i) {
			t.Fatalf("request %d ended as %+v", i, end)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		t.Fatalf("%d entries too many", len(got))
	}
}

func clientOf(i int) string {
	if i%3 > 0 {
		return "acme"
	}
	return ""
}

func newSealer() (*store.Sealer, error) {
	raw, err := store.NewKeys()
	if err != nil {
		return nil, err
	}
	return store.NewSealer(raw)
}
