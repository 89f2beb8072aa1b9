package backup_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backup"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/topology"
)

// chain writes as the relay does, as fast as it can. Each round stores downstream first, and only
// then what claims it. Every document carries the round, and the position of what it claims.
type chain struct {
	rounds atomic.Int64
	begun  atomic.Int64 // how many have written a whole round
	failed atomic.Pointer[error]
}

type claim struct {
	Round  int    `json:"round"`
	Events uint64 `json:"events"`
	Inbox  uint64 `json:"inbox"`
	Epoch  uint64 `json:"epoch"`
}

// unheard lets a write wait until the client's server knows which server of the cluster listens for
// the stream.
var unheard = jetstream.WithRetryAttempts(100)

func (c *chain) run(ctx context.Context, js jetstream.JetStream, n int) {
	put := func(subject string, data []byte) uint64 {
		if ctx.Err() != nil {
			return 0
		}
		writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		ack, err := js.Publish(writing, subject, data, unheard)
		if err != nil {
			c.failed.Store(&err)
			return 0
		}
		return ack.Sequence
	}
	id := strconv.Itoa(n)
	filler := make([]byte, 2000)
	for round := 1; ctx.Err() == nil; round++ {
		epoch := put("$KV.relay_owners.shard."+id, fmt.Appendf(nil, `{"round":%d}`, round))
		inbox := put(table.InboxSubject(id), fmt.Appendf(filler, "%d", round))
		events := put("relay.publish.audatex.leeds.parts.order.updated."+id, fmt.Appendf(filler, "%d", round))
		raw, _ := json.Marshal(claim{round, events, inbox, epoch})
		put("$KV.relay_unresolved."+id, raw)
		put("$KV.relay_orders.leeds."+id, append(raw, filler...))
		put("$KV.relay_lanes.callback.bms."+id, raw)
		put("$KV.relay_cursors.callback."+id, raw)
		if ctx.Err() == nil {
			c.rounds.Add(1)
			if round == 1 {
				c.begun.Add(1)
			}
		}
		<-time.After(10 * time.Millisecond) // forty that never rest leave the backup nothing of two cores
	}
}

func testLive(t *testing.T, from, to *world) {
	t.Helper()
	if err := natstest.Patiently(func() error { return from.config.Topology.Apply(t.Context(), from.js) }); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 { // what nobody touches must be there as well
		if _, err := from.js.PublishAsync(fmt.Sprintf("$KV.relay_orders.still.%d", i),
			make([]byte, 500), unheard); err != nil {
			t.Fatal(err)
		}
	}
	<-from.js.PublishAsyncComplete()
	var c chain
	const writers = 40
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for n := range writers {
		all.Go(func() { c.run(ctx, from.js, n) })
	}
	defer all.Wait()
	defer stop()
	for (c.begun.Load() < writers || c.rounds.Load() < 2*writers) && c.failed.Load() == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			return
		}
	}
	began := c.rounds.Load()
	dir := filepath.Join(t.TempDir(), "backup")
	m := save(t, from, dir)
	t.Logf("%d rounds while the backup was taken in %s; tails: %s",
		c.rounds.Load()-began, m.Ended.Sub(m.Began), tails(m))
	stop()
	all.Wait()
	if err := c.failed.Load(); err != nil {
		t.Fatal(*err)
	}
	if _, err := backup.Restore(t.Context(), to.config, dir, false); err != nil {
		t.Fatal(err)
	}
	last := map[string]uint64{}
	for _, name := range []string{"relay_events", "relay_inbox", "KV_relay_owners"} {
		s, err := to.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		last[name] = s.CachedInfo().State.LastSeq
	}
	read := func(bucket topology.BucketName, key string) (v claim) {
		kv, err := to.js.KeyValue(t.Context(), "relay_"+string(bucket))
		if err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(t.Context(), key)
		if err != nil {
			t.Fatalf("%s of %s: %v", key, bucket, err)
		}
		end := 0
		for end < len(e.Value()) && e.Value()[end] != 0 {
			end++
		}
		if err := json.Unmarshal(e.Value()[:end], &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for n := range writers {
		id := strconv.Itoa(n)
		cursor, lane := read(topology.Cursors, "callback."+id), read(topology.Lanes, "callback.bms."+id)
		order, unresolved := read(topology.Orders, "leeds."+id), read(topology.Unresolved, id)
		if cursor.Round > lane.Round || lane.Round > order.Round || order.Round > unresolved.Round {
			t.Errorf("a document claims what was not taken: cursor of round %d, lane of %d, order of %d, unresolved "+
				"of %d", cursor.Round, lane.Round, order.Round, unresolved.Round)
		}
		for _, v := range []claim{cursor, lane, order, unresolved} {
			if v.Events > last["relay_events"] || v.Inbox > last["relay_inbox"] || v.Epoch > last["KV_relay_owners"] {
				t.Errorf("%+v claims more than there is: %v", v, last)
			}
		}
	}
	orders, err := to.js.Stream(t.Context(), "KV_relay_orders")
	if err != nil {
		t.Fatal(err)
	}
	info, err := orders.Info(t.Context(), jetstream.WithSubjectFilter("$KV.relay_orders.still.*"))
	if err != nil || len(info.State.Subjects) != 3000 {
		t.Errorf("not all of 3000 documents that nobody touched: %v", err)
	}
}

func tails(m backup.Manifest) string {
	said := ""
	for _, s := range m.Streams {
		if s.Tail != nil {
			said += fmt.Sprintf(" %s %d", s.Name, s.Tail.Messages)
		}
	}
	return said
}

// A backup taken while relays work claims nothing that it does not hold, and misses nothing that
// was there.
func TestLiveBackupClaimsNothingThatItLacks(t *testing.T) {
	t.Parallel()
	keys := newKeys(t)
	testLive(t, at(t, natstest.Start(t), keys, table), at(t, natstest.Start(t), keys, table))
}

// The same from a cluster, whose backup goes into a single server, and from there into another
// cluster.
func TestLiveBackupOfACluster(t *testing.T) {
	t.Parallel()
	keys, three := newKeys(t), table
	three.Replicas = 3
	cluster := natstest.NewCluster(t)
	single := at(t, natstest.Start(t), keys, table)
	testLive(t, at(t, cluster.Connect(t), keys, three), single)
	dir := filepath.Join(t.TempDir(), "second")
	m := save(t, single, dir)
	back := at(t, cluster.Connect(t), keys, three)
	if _, err := backup.Restore(t.Context(), back.config, dir, true); err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Streams {
		s, err := back.js.Stream(t.Context(), f.Name)
		if err != nil || s.CachedInfo().Config.Replicas != 3 || s.CachedInfo().State.LastSeq < f.LastSeq {
			t.Errorf("%s: %+v, %v", f.Name, s, err)
		}
	}
}

// On a cluster a restore that dies leaves names taken, which later turn up as streams of half a
// backup. The next one gets past them.
func TestARestoreThatDiedOnAClusterIsGoneOnWith(t *testing.T) {
	t.Parallel()
	keys, three := newKeys(t), table
	three.Replicas = 3
	_, dir, _ := saved(t, keys)
	cluster := natstest.NewCluster(t)
	rounds, _ := strconv.Atoi(os.Getenv("RELAY_CRASH_KILLS")) // .ci/full sets it
	for n := range max(1, min(rounds, 10)) {
		dying := at(t, cluster.Connect(t), keys, three)
		ended := make(chan error, 1)
		go func() {
			_, err := backup.Restore(t.Context(), dying.config, dir, true)
			ended <- err
		}()
		<-time.After(time.Duration(200+rand.IntN(1000)) * time.Millisecond)
		dying.nc.Close() // as far as the servers see it, that is the end of the process
		err := <-ended
		next := at(t, cluster.Connect(t), keys, three)
		if again := natstest.Patiently(func() error { // a busy machine may take longer to respond than the time-out
			_, err := backup.Restore(t.Context(), next.config, dir, true)
			return err
		}); again != nil {
			t.Fatalf("round %d: the first ended with %v, the next with %v", n, err, again)
		}
		next.open(t)
	}
}
