package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func TestHeadsAreTheLastPages(t *testing.T) {
	t.Parallel()
	checkHeads(t, open(t, t.TempDir()))
}

func checkHeads(t *testing.T, s *store.Store) {
	t.Helper()
	want := map[string]uint64{}
	var connections, few []string // few are of two shards; both are more than are asked for one by one
	for n := 0; len(few) < 70; n++ {
		id := fmt.Sprintf("c%d", n)
		if shard := relay.ShardOf(id); shard == 5 || shard == 50 {
			few = append(few, id)
		} else if n >= 100 {
			continue
		}
		connections = append(connections, id)
		want[id] = 0
		for range n % 3 {
			seq, err := s.Inbox.Append(t.Context(), store.Page{PollID: fmt.Sprint(id, "-", want[id]), Connection: id,
				ReceivedAt: time.Now(), Body: []byte("[1]")})
			if err != nil {
				t.Fatal(err)
			}
			want[id] = seq
		}
	}
	for _, asked := range [][]string{nil, connections[:7], few, connections} {
		got, err := s.Inbox.Heads(t.Context(), asked)
		if err != nil {
			t.Fatal(err)
		}
		expected := map[string]uint64{}
		for _, id := range asked {
			expected[id] = want[id]
		}
		if !maps.Equal(got, expected) {
			t.Errorf("of %d connections: %v, want %v", len(asked), got, expected)
		}
	}
}

// A page under a subject that is no connection's is nobody's: whatever reads by connection passes it over.
func TestAPageInTheWrongShardIsNobodys(t *testing.T) {
	t.Parallel()
	_, nc := single(t, nil)
	o := newOutage(t, nc, 1)
	wrong := func() {
		t.Helper()
		for _, subject := range []string{"relay.inbox.5.a", "relay.inbox.032.a"} { // the shard of a is 32
			if _, err := o.js.Publish(t.Context(), subject, []byte("[1]")); err != nil {
				t.Fatal(err)
			}
		}
	}
	wrong()
	if p, err := o.Inbox.Last(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the last page is %+v, %v", p, err)
	}
	own, err := o.Inbox.Append(t.Context(), store.Page{PollID: "p", Connection: "a", Body: []byte("[1]")})
	if err != nil {
		t.Fatal(err)
	}
	wrong()
	if p, err := o.Inbox.Last(t.Context(), "a"); err != nil || p.Seq != own {
		t.Errorf("the last page is %+v, %v", p, err)
	}
	if pages, more, err := o.Inbox.Scan(t.Context(), "a", 1, 10); err != nil || more ||
		len(pages) != 1 || pages[0].Seq != own {
		t.Errorf("pages %+v, more %v, %v", pages, more, err)
	}
	connections := []string{"a"}
	for n := 0; len(connections) < 70; n++ { // of both shards, and more than are asked for one by one
		if id := fmt.Sprintf("c%d", n); relay.ShardOf(id) == 5 || relay.ShardOf(id) == 32 {
			connections = append(connections, id)
		}
	}
	for _, asked := range [][]string{connections[:1], connections} {
		heads, err := o.Inbox.Heads(t.Context(), asked)
		if err != nil || heads["a"] != own || len(heads) != len(asked) {
			t.Errorf("of %d connections: %v, %v", len(asked), heads, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tail, err := o.Inbox.Tail(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Stop()
	var of []string
	for range 5 {
		m, err := tail.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		of = append(of, o.Inbox.ConnectionOf(m))
	}
	if !slices.Equal(of, []string{"", "", "a", "", ""}) {
		t.Errorf("pages of %q", of)
	}
}
