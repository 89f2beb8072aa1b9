package backup_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backup"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// publishing publishes events of a few orders and operational ones, by a clock of the test's, and
// notes what was issued.
type publishing struct {
	t      *testing.T
	w      *world
	now    time.Time
	issued map[string]string // id to content
	p      *publisher.Publisher
}

func (p *publishing) open() {
	p.t.Helper()
	s := p.w.open(p.t)
	mark, err := s.Mark(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	p.p = publisher.New(publisher.Config{
		Store: s, Log: p.w.config.Log, Now: func() time.Time { return p.now },
		Ahead: time.Duration(mark.Ahead) * time.Microsecond,
	})
}

// publish publishes n events for each of three orders, and as many operational ones, without the
// clock moving between those of one turn.
func (p *publishing) publish(what string, n int) {
	p.t.Helper()
	ctx := p.t.Context()
	for i := range n {
		p.now = p.now.Add(time.Microsecond)
		for o := range 3 {
			at := time.Now().UTC()
			notification := relay.Received{Connection: "leeds", Seq: uint64(i + 1),
				Info: relay.NotificationInfo{Topic: "PARTS.ORDER.UPDATED", ReceivedAt: at}}
			standing, err := p.p.Begin(ctx, "leeds", uuid(o), []relay.Received{notification})
			if err != nil {
				p.t.Fatal(err)
			}
			standing.Waiting = []relay.Received{notification}
			if outcome, err := p.p.Publish(ctx, standing,
				relay.Snapshot{Order: fmt.Appendf(nil, `{"Status":"%s %d"}`, what, i), ReadAt: at}); err != nil {
				p.t.Fatal(outcome, err)
			}
		}
		if err := p.p.Operational(ctx, relay.NoSite, relay.KindGapSuspected, "leeds",
			fmt.Sprintf("%s %d", what, i), nil); err != nil {
			p.t.Fatal(err)
		}
	}
	p.look()
}

// look reads the whole log and checks that no id was ever another event's.
func (p *publishing) look() {
	p.t.Helper()
	events, _, err := p.w.s.Events.Scan(p.t.Context(), 1, nil, 100_000)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, stored := range events {
		var ev relay.Event
		if err := json.Unmarshal(stored.Body, &ev); err != nil {
			p.t.Fatal(err)
		}
		if was, ok := p.issued[ev.ID]; ok && was != string(stored.Body) {
			p.t.Errorf("%s was issued for\n%s\nand again for\n%s", ev.ID, was, stored.Body)
		}
		p.issued[ev.ID] = string(stored.Body)
	}
}

// No id that was issued after a backup is issued again with other content once the backup has been
// restored, even if the clock was changed between, within the hour that is allowed for.
func TestNoEventIDComesAgainAfterARestore(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	for _, c := range []struct {
		name string
		// how the clocks stand to the true time, after the backup and after the restore
		published, resumed time.Duration
	}{
		{"good clocks", 0, 0},
		{"the relay's clock was fast", 50 * time.Minute, 0},
		{"it was much too fast before the backup already", 1000 * time.Hour, 0},
		{"the new one's is slow", 0, -50 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			base := time.Now().UTC()
			p := &publishing{t: t, w: at(t, natstest.Start(t), keys, table), issued: map[string]string{}, now: base}
			if c.published > time.Hour {
				p.now = p.now.Add(c.published)
			}
			p.open()
			p.publish("before", 3)
			dir := filepath.Join(t.TempDir(), "backup")
			save(t, p.w, dir)
			if c.published > time.Hour {
				p.now = base // somebody has set the clock right: the orders' numbers go on from where they are
			} else {
				p.now = p.now.Add(c.published)
			}
			p.publish("lost", 8)

			for range 2 { // a second restore of the same backup must not meet the numbers of the first
				p.w = at(t, natstest.Start(t), keys, table)
				if _, err := backup.Restore(t.Context(), p.w.config, dir, false); err != nil {
					t.Fatal(err)
				}
				p.now = time.Now().UTC().Add(c.resumed)
				p.open()
				p.publish("after", 8)
			}
		})
	}
}

// A later backup has been given out numbers further ahead. Going back from it to the one before
// must not fall behind them.
func TestNumbersRunOnFromTheStoreThatIsReplaced(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	p := &publishing{t: t, w: at(t, natstest.Start(t), keys, table), issued: map[string]string{}, now: time.Now().UTC()}
	p.open()
	p.publish("first", 3)
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	save(t, p.w, first)
	var ahead int64
	for i, dir := range []string{first, second, first} {
		if _, err := backup.Restore(t.Context(), p.w.config, dir, true); err != nil {
			t.Fatal(err)
		}
		mark, err := p.w.config.Topology.ReadMark(t.Context(), p.w.js)
		if err != nil || mark.Ahead < ahead+time.Hour.Microseconds() {
			t.Errorf("restore %d: numbers run %d µs ahead, %d before it; %v", i+1, mark.Ahead, ahead, err)
		}
		ahead = mark.Ahead
		p.now = time.Now().UTC()
		p.open()
		p.publish("after", 3)
		if i == 0 {
			save(t, p.w, second)
		}
	}
}

// Of a store that is lost with its disk only the operator knows how far it was ahead.
func TestNumbersRunAheadOfWhatTheOperatorSays(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	_, dir, _ := saved(t, keys)
	to := at(t, natstest.Start(t), keys, table)
	to.config.Ahead = 5 * time.Hour
	m, err := backup.Restore(t.Context(), to.config, dir, false)
	if err != nil || m.Ahead != 6*time.Hour {
		t.Errorf("numbers run %s ahead: %v", m.Ahead, err)
	}
	mark, err := table.ReadMark(t.Context(), to.js)
	if err != nil || mark.Ahead != m.Ahead.Microseconds() {
		t.Errorf("the mark says %d µs: %v", mark.Ahead, err)
	}
}

// A restore that has deleted what was there and then fails must not let relays begin with numbers
// that the deleted store was past.
func TestNumbersRunOnAfterARestoreThatFailed(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	w := at(t, natstest.Start(t), keys, table)
	p := &publishing{t: t, w: w, issued: map[string]string{}, now: time.Now().UTC()}
	p.open()
	p.publish("first", 3)
	dir := filepath.Join(t.TempDir(), "backup")
	save(t, w, dir)
	for range 2 { // the store is further ahead than the backup
		if _, err := backup.Restore(t.Context(), w.config, dir, true); err != nil {
			t.Fatal(err)
		}
	}
	p.now = time.Now().UTC()
	p.open()
	p.publish("lost", 3)
	mark, err := table.ReadMark(t.Context(), w.js)
	if err != nil {
		t.Fatal(err)
	}

	// Once what was there is deleted, another stream takes the subjects of one that must be
	// restored.
	asked, good := 0, w.config.Now
	w.config.Now = func() time.Time {
		if asked++; asked == 2 {
			if _, err := w.js.CreateStream(t.Context(),
				jetstream.StreamConfig{Name: "theirs", Subjects: []string{"relay.inbox.>"}}); err != nil {
				t.Error(err)
			}
		}
		return time.Now()
	}
	if _, err := backup.Restore(t.Context(), w.config, dir, true); err == nil ||
		!strings.Contains(err.Error(), "no relay starts until a restore ends well") {
		t.Errorf("the restore answers %v", err)
	}
	w.config.Now = good
	if err := w.js.DeleteStream(t.Context(), "theirs"); err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(t.Context(), w.js); !errors.Is(err, topology.ErrRestoring) {
		t.Errorf("a relay on the emptied store: %v", err)
	}
	if _, err := backup.Restore(t.Context(), w.config, dir, true); err != nil {
		t.Fatal(err)
	}
	after, err := table.ReadMark(t.Context(), w.js)
	if err != nil || after.Ahead < mark.Ahead+time.Hour.Microseconds() {
		t.Errorf("numbers run %d µs ahead, %d before: %v", after.Ahead, mark.Ahead, err)
	}
	p.now = time.Now().UTC()
	p.open()
	p.publish("after", 3)
}
