package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func records(from, through int) (list []relay.AttemptRecord) {
	for n := from; n <= through; n++ {
		list = append(list, relay.AttemptRecord{Event: fmt.Sprint(n), Seq: uint64(n), Order: "order", Number: 1,
			At: time.Unix(int64(n), 0)})
	}
	return list
}

// Two readers of a callback record in one chain: nothing is lost or doubled, also where the store's response to one is
// lost and the other goes on meanwhile.
func TestReadersOfACallbackRecordInOneChain(t *testing.T) {
	t.Parallel()
	var lose atomic.Bool
	keys, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Config{
		Conn: natstest.Start(t), Sealer: sealer, Log: log,
		Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour},
		Gate: store.Gate{After: func(store.Write) error {
			if lose.Load() {
				return errors.New("the answer is lost")
			}
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	here, there := delivery.New(delivery.Config{Store: s, Log: log}), delivery.New(delivery.Config{Store: s, Log: log})
	live, replay, other := here.Recorder("cb", "g"), here.Recorder("cb", "g"), there.Recorder("cb", "g")
	appendTo := func(d *delivery.Deliverer, r *delivery.Recorder, from, through int) {
		t.Helper()
		for waiting, try := records(from, through), 0; len(waiting) > 0; try++ {
			if try == 5 {
				t.Fatalf("%d records are not stored", len(waiting))
			}
			waiting = waiting[d.Append(t.Context(), []delivery.Records{{Recorder: r, Records: waiting}})[0].Stored:]
		}
	}
	appendTo(here, live, 1, 3)
	appendTo(here, replay, 4, 5)
	appendTo(there, other, 6, 6) // another replica knows nothing of them
	appendTo(here, live, 7, 7)   // and this one nothing of that
	lose.Store(true)
	if got := here.Append(t.Context(),
		[]delivery.Records{{Recorder: live, Records: records(8, 9)}})[0]; got.Err == nil || got.Stored > 0 {
		t.Fatalf("a lost answer came to %+v", got)
	}
	lose.Store(false)
	appendTo(here, replay, 10, 10) // goes after what it does not know of
	appendTo(here, live, 8, 11)    // two of these are stored already

	var seqs []uint64
	err = s.Attempts.Walk(context.Background(), "cb", "g", 0, func(_ uint64, _ time.Time, b relay.AttemptBatch) bool {
		for i := len(b.Records) - 1; i >= 0; i-- {
			seqs = append(seqs, b.Records[i].Seq)
		}
		return true
	})
	if err != nil || fmt.Sprint(seqs) != "[11 10 10 9 8 7 6 5 4 3 2 1]" {
		t.Fatalf("recorded: %v, %v", seqs, err)
	}
}
