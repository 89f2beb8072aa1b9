package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/topology"
)

// TestLeasesOf shows what the life of a lease's key is taken for.
func TestLeasesOf(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	written := func(seq uint64, after time.Duration, nonce string, epoch uint64) revision {
		return revision{seq: seq, at: began.Add(after), epoch: epoch,
			body: fmt.Appendf(nil, `{"replica":"r","nonce":%q,"epoch":%d}`, nonce, epoch)}
	}
	removed := func(seq uint64, after time.Duration) revision {
		return revision{seq: seq, at: began.Add(after), removed: true}
	}
	unseen := func(r revision) revision { r.gap = true; return r }
	who := func(string) (int, int) { return 0, 0 }
	for name, c := range map[string]struct {
		revisions []revision
		leases    int
		wrong     string
	}{
		"taken and renewed": {[]revision{written(1, 0, "a", 1), written(2, 4*time.Second, "a", 1)}, 1, ""},
		"released and taken": {
			[]revision{written(1, 0, "a", 1), removed(2, time.Second), written(3, 2*time.Second, "b", 2)}, 2, ""},
		"expired and taken": {
			[]revision{written(1, 0, "a", 1), removed(2, 15*time.Second), written(3, 16*time.Second, "b", 2)}, 2, ""},
		"taken once its time was over": {[]revision{written(1, 0, "a", 1), written(3, 15*time.Second, "b", 2)}, 2, ""},
		"taken from its owner": {[]revision{written(1, 0, "a", 1), written(3, 14*time.Second, "b", 2)}, 2,
			twoOwners},
		"released unseen and taken": {[]revision{written(1, 0, "a", 1), unseen(written(9, 2*time.Second, "b", 9))},
			2, ""},
		"taken under an old epoch": {[]revision{written(7, 0, "a", 1), removed(8, time.Second),
			written(9, 2*time.Second, "b", 3), written(10, 4*time.Second, "b", 1)}, 2, overwritten},
		"taken by the same anew": {
			[]revision{written(1, 0, "a", 1), removed(2, time.Second), written(3, 2*time.Second, "a", 2)}, 2, ""},
	} {
		var f findings
		list := leasesOf(&f, 5, topology.LeaseTTL, c.revisions, who)
		if len(list) != c.leases {
			t.Errorf("%s: %d leases, want %d", name, len(list), c.leases)
		}
		if c.wrong == "" && len(f.list) > 0 || c.wrong != "" && f.by[c.wrong] == 0 {
			t.Errorf("%s: found %q, want %q", name, f.list, c.wrong)
		}
	}
}

// TestWhatWasNotSeenMayHaveBeenARenewal shows until when a lease may have been held whose renewals
// nobody saw.
func TestWhatWasNotSeenMayHaveBeenARenewal(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	body := func(nonce string) []byte { return fmt.Appendf(nil, `{"replica":"r","nonce":%q,"epoch":1}`, nonce) }
	next := began.Add(time.Minute)
	for name, c := range map[string]struct {
		after revision
		over  time.Time
	}{
		"taken, all seen":        {revision{seq: 2, at: next, body: body("b")}, began.Add(topology.LeaseTTL)},
		"taken, some not seen":   {revision{seq: 9, at: next, body: body("b"), gap: true}, next},
		"removed, all seen":      {revision{seq: 2, at: next, removed: true}, began.Add(topology.LeaseTTL)},
		"removed, some not seen": {revision{seq: 9, at: next, removed: true, gap: true}, next},
	} {
		var f findings
		revisions := []revision{{seq: 1, at: began, body: body("a")}, c.after}
		list := leasesOf(&f, 5, topology.LeaseTTL, revisions, func(string) (int, int) { return 0, 0 })
		if got := list[0].over(); !got.Equal(c.over) {
			t.Errorf("%s: over at %s, want %s", name, got, c.over)
		}
	}
}

// TestRefreshesOf shows which refreshes count as interrupted.
func TestRefreshesOf(t *testing.T) {
	t.Parallel()
	intent := func(id string) revision { return revision{body: fmt.Appendf(nil, `{"intent":{"ID":%q}}`, id)} }
	result := revision{body: []byte(`{}`)}
	for name, c := range map[string]struct {
		revisions []revision
		want      refreshes
	}{
		"two with their results": {[]revision{intent("a"), result, intent("b"), result}, refreshes{begun: 2}},
		"one that nobody ended": {[]revision{intent("a"), intent("b"), result},
			refreshes{begun: 2, interrupted: 1}},
		"one that is under way": {[]revision{result, intent("a")}, refreshes{begun: 1}},
		"one written twice":     {[]revision{intent("a"), intent("a"), result}, refreshes{begun: 1}},
		"one whose end was not seen": {[]revision{intent("a"), {gap: true, body: []byte(`{}`)}},
			refreshes{begun: 1, unseen: 1}},
	} {
		if got := refreshesOf(c.revisions); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
