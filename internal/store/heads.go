package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// headsAsked is up to how many connections Heads asks for one by one; for more, one reader of all
// there are costs the server less.
const headsAsked = 64

// Heads returns the sequence of the last page of each of the connections, 0 for one that has none.
// No page stored before the call is missing, even if a node of the cluster lags: a replica that
// takes a connection over would not learn of it again.
func (i *Inbox) Heads(ctx context.Context, connections []string) (map[string]uint64, error) {
	if err := i.s.health.reachable(); err != nil {
		return nil, fmt.Errorf("read the heads of the inbox: %w", err)
	}
	heads := make(map[string]uint64, len(connections))
	for _, c := range connections {
		heads[c] = 0
	}
	read := i.readHeads
	if len(connections) <= headsAsked {
		read = i.askHeads
	}
	if err := read(ctx, heads); err != nil {
		return nil, fmt.Errorf("read the heads of %s: %w", i.s.topo.Inbox(), err)
	}
	return heads, nil
}

// askHeads asks the inbox's leader for each connection's last page.
func (i *Inbox) askHeads(ctx context.Context, heads map[string]uint64) error {
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	for _, c := range slices.Collect(maps.Keys(heads)) {
		asking.Go(func() {
			m, err := i.s.atLeader(ctx, i.s.topo.Inbox(), jsapi.Selection{Last: i.s.topo.InboxSubject(c)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				heads[c] = m.Seq
			} else if !errors.Is(err, ErrNotFound) {
				failed = err
			}
		})
	}
	asking.Wait()
	return failed
}

// readHeads reads the last page of every connection there is, without the pages themselves.
func (i *Inbox) readHeads(ctx context.Context, heads map[string]uint64) error {
	stream, all := i.s.topo.Inbox(), []string{i.s.topo.InboxSubject("*")}
	newest := uint64(0)
	note := func(m Message) {
		newest = max(newest, m.Seq)
		if c := i.ConnectionOf(m); heads[c] < m.Seq {
			if _, asked := heads[c]; asked {
				heads[c] = m.Seq
			}
		}
	}
	_, full, err := i.s.readNow(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: all, HeadersOnly: true,
	}, math.MaxUint64, note)
	if err != nil || full && i.s.topo.Replicas <= 1 {
		return err
	}
	for more := true; more; { // the reader's node may lag, or have lost count
		var late []Message
		if late, more, err = i.s.rest(ctx, stream, newest+1, time.Time{}, all, listChunk); err != nil {
			return err
		}
		for _, m := range late {
			note(m)
		}
	}
	return nil
}
