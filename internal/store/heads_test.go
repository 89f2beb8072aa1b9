package store_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

func TestHeadsAreTheLastPages(t *testing.T) {
	t.Parallel()
	checkHeads(t, open(t, t.TempDir()))
}

func checkHeads(t *testing.T, s *store.Store) {
	t.Helper()
	want := map[string]uint64{}
	var connections []string
	for n := range 100 { // more than are asked for one by one
		id := fmt.Sprintf("c%d", n)
		connections = append(connections, id)
		want[id] = 0
		for range n % 3 {
			seq, err := s.Inbox.Append(t.Context(), store.Page{PollID: fmt.Sprint(id, "-", want[id]), Connection: id, ReceivedAt: time.Now(), Body: []byte("[1]")})
			if err != nil {
				t.Fatal(err)
			}
			want[id] = seq
		}
	}
	for _, asked := range [][]string{nil, connections[:7], connections} {
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
