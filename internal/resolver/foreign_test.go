package resolver_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/store"
)

// foreignHash is the last part of the id of what is no notification.
func foreignHash(raw string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", len(raw), raw))
	return hex.EncodeToString(sum[:8])
}

// raw stores a page of any bytes.
func (r *rig) raw(connection, site, body string) uint64 {
	r.t.Helper()
	seq, err := r.store.Inbox.Append(r.t.Context(), store.Page{
		PollID: relay.NewID(), Connection: connection, Generation: "g-" + connection, ReceivedAt: time.Now(),
		Site: site, Body: []byte(body), Entries: 1,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return seq
}

// Whatever is sent in the queue's place again and again is one entry with a count, and one event; what differs is
// another.
func TestSomethingElseInTheQueuesPlaceIsOneEntryWithACount(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	things := []string{
		"<html><body>Down for maintenance</body></html>", `{"Message":"An error has occurred."}`, `{}`,
		"Service unavailable", `<?xml version="1.0"?><Error/>`, "\xef\xbb\xbf<html>", `[{},{"a":1},7,null]`, `"text"`,
		`[[]]`, `[error] no backend`, `true`, "\xff\xfe[\x00]\x00",
	}
	order := orderID(1)
	r.vendor.set(order, "New")
	last := map[string]uint64{}
	for i := range things {
		r.connect(fmt.Sprint("c", i), "leeds")
	}
	var first time.Time
	for range 5 {
		for i, thing := range things {
			last[fmt.Sprint("c", i)] = r.raw(fmt.Sprint("c", i), "leeds", thing)
		}
		first = time.Now()
	}
	stop := r.run(r.config(r.store))
	for id, seq := range last {
		r.settled(id, seq)
	}
	for i, thing := range things { // and then the queue is well again
		id := fmt.Sprint("c", i)
		last[id] = r.page(id, "leeds", updated(order))
		if thing == `{}` {
			last[id] = r.raw(id, "leeds", `{"another":"thing"}`)
		}
	}
	for id, seq := range last {
		r.settled(id, seq)
	}
	stop()
	docs := r.unresolved()
	if len(docs) != len(things)+1 || r.operational(relay.KindOrderUnresolved) != len(things)+1 {
		t.Errorf("%d entries, %d events", len(docs), r.operational(relay.KindOrderUnresolved))
	}
	for _, d := range docs {
		var i int
		if _, err := fmt.Sscanf(d.Connection, "c%d", &i); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(d.Raw), "another") {
			if d.Count != 1 || !d.LastReceivedAt.Equal(d.ReceivedAt) {
				t.Errorf("entry %+v", d)
			}
			continue
		}
		if string(d.Raw) != things[i] || d.Count != 5 || d.Size != len(things[i]) || d.Reason != "malformed" ||
			!d.LastReceivedAt.After(d.ReceivedAt) || d.LastReceivedAt.After(first) {
			t.Errorf("%q: %d times %q, %s, from %s to %s",
				things[i], d.Count, d.Raw, d.Reason, d.ReceivedAt, d.LastReceivedAt)
		}
		if got, err := resolver.New(r.config(r.store)).Retry(t.Context(), d.ID); got != relay.RetryRefused ||
			err == nil {
			t.Errorf("retry of %s: %v, %v", d.ID, got, err)
		}
	}
	if n := len(r.events("leeds", order)); n != len(things) {
		t.Errorf("%d events of the order, want %d", n, len(things))
	}
}

// A maintenance page that bears the time differs at each poll: some are kept, all are counted.
func TestChangingPagesInTheQueuesPlaceAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	const all = 30
	var last uint64
	for n := range all {
		last = r.raw("leeds", "leeds", fmt.Sprintf("<html>%d: try later</html>", n))
	}
	r.run(r.config(r.store))
	r.settled("leeds", last)
	count := func() (entries, times int) {
		for _, d := range r.unresolved() {
			entries, times = entries+1, times+d.Count
		}
		return entries, times
	}
	if entries, times := count(); entries != 9 || times != all || r.operational(relay.KindOrderUnresolved) != 9 {
		t.Errorf("%d entries of %d pages, %d events", entries, times, r.operational(relay.KindOrderUnresolved))
	}

	// What was dealt with makes room, and is counted from one again.
	doc, revision, err := r.store.Unresolved.Get(t.Context(), "leeds.foreign."+foreignHash("<html>0: try later</html>"))
	if err == nil {
		err = r.store.Unresolved.Delete(t.Context(), doc.ID, revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.settled("leeds", r.raw("leeds", "leeds", "<html>new</html>"))
	if doc, _, err := r.store.Unresolved.Get(t.Context(),
		"leeds.foreign."+foreignHash("<html>new</html>")); err != nil || doc.Count != 1 {
		t.Errorf("%+v, %v", doc, err)
	}
	if entries, times := count(); entries != 9 || times != all {
		t.Errorf("%d entries of %d pages", entries, times)
	}
}

// Wherever a crash or a lost response falls, nothing that came is counted twice or not at all, and it is reported.
func TestTheCountSurvivesCrashes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	bodies := []string{"<html>a</html>", "<html>b</html>", "<html>a</html>", "<html>a</html>"}
	var last uint64
	for _, body := range bodies {
		last = r.raw("leeds", "leeds", body)
	}
	epoch := uint64(0)
	for crash := 1; ; crash++ {
		var writes atomic.Int64
		fail := func(w store.Write, after bool) error {
			if kind := kindOf(w.Subject); !slices.Contains([]string{"unresolved", "operational", "cursor"}, kind) {
				return nil
			}
			if n := int(writes.Add(1)); n > crash || n == crash && after == (crash%2 == 0) {
				return store.ErrUnclear
			}
			return nil
		}
		s := r.open(store.Gate{Before: func(w store.Write) error { return fail(w, false) },
			After: func(w store.Write) error { return fail(w, true) }})
		epoch++
		done := crash > 12
		if done {
			s = r.store
		}
		stop := r.work(resolver.New(r.config(s)), epoch)
		if done {
			r.settled("leeds", last)
			break
		}
		eventually(t, "a write fails, or none is left to be made", func() bool {
			d, _, err := r.store.Cursors.Get(t.Context(), store.InboxCursors.Key("leeds"))
			return int(writes.Load()) >= crash || err == nil && d.Position >= relay.PackEntry(last, 0)
		})
		stop()
	}
	counts := map[string]int{}
	for _, d := range r.unresolved() {
		counts[string(d.Raw)] = d.Count
		if !d.Published {
			t.Errorf("%s was not told", d.ID)
		}
	}
	if len(counts) != 2 || counts[bodies[0]] != 3 || counts[bodies[1]] != 1 {
		t.Errorf("counts %v", counts)
	}
	if n := r.operational(relay.KindOrderUnresolved); n < 2 {
		t.Errorf("%d events", n)
	}
}
