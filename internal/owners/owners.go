// Package owners carries questions to whoever owns a shard. The HTTP API runs on every replica, but only the owner of a connection
// can poll it now, and only the owner of a callback knows what waits for it. Each owner listens at its shards' subjects; a question is a
// NATS request there, answered at once or, where nobody owns the shard at the moment, by ErrNoOwner.
package owners

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/topology"
)

var (
	// ErrNoOwner says that nobody answered for the shard: it is being handed over, or NATS cannot be reached. Asking again in some seconds
	// helps.
	ErrNoOwner = errors.New("the owner of the shard does not answer")
	// ErrRefused says that the owner answered that it could not do what was asked; the error's text is its own.
	ErrRefused = errors.New("the owner refused")
)

const (
	// answerWithin bounds a handler. Who asks waits a little longer.
	answerWithin = 30 * time.Second
	// atOnce is how many questions of one shard are answered side by side; more wait in the subscription.
	atOnce = 16
	// patience is how long a question waits that brings no deadline of its own.
	patience = 2 * time.Second
)

// Handler answers a question; its answer is written as JSON. An error's text goes to the one who asked, so it must hold no secret.
type Handler func(ctx context.Context, question json.RawMessage) (any, error)

// Config is what New needs.
type Config struct {
	Conn     *nats.Conn
	Topology topology.Topology
	Log      *slog.Logger
}

// Owners asks and answers.
type Owners struct {
	c        Config
	handlers map[string]Handler
}

// New makes Owners; Ask asks about any shard.
func New(c Config) *Owners { return &Owners{c: c} }

// Handle says how to answer, by operation (a subject token). It comes before the first Serve.
func (o *Owners) Handle(handlers map[string]Handler) { o.handlers = handlers }

// reply is what goes over the wire.
type reply struct {
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Serve answers what is asked about a shard until ctx ends.
func (o *Owners) Serve(ctx context.Context, lease *shard.Lease) error {
	questions := make(chan *nats.Msg, 4*atOnce)
	sub, err := o.c.Conn.ChanSubscribe(o.c.Topology.ShardSubject(strconv.Itoa(lease.Shard()), "*"), questions)
	if err != nil {
		return fmt.Errorf("answer for shard %d: %w", lease.Shard(), err)
	}
	var answering sync.WaitGroup
	defer answering.Wait()
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, and with it the subscription
	slots := make(chan struct{}, atOnce)
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-questions:
			if !lease.Valid() { // who asks may find the new owner when asking again
				continue
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			answering.Go(func() {
				defer func() { <-slots }()
				o.answer(ctx, m)
			})
		}
	}
}

func (o *Owners) answer(ctx context.Context, m *nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var r reply
	operation := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	if handler, known := o.handlers[operation]; !known {
		r.Error = "unknown operation " + operation // a newer replica asks an older one
	} else if answer, err := handler(ctx, m.Data); err != nil {
		r.Error = err.Error()
	} else if r.Answer, err = json.Marshal(answer); err != nil {
		r.Error = "the answer cannot be written: " + err.Error()
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		o.c.Log.WarnContext(ctx, "a question to the owner of a shard could not be answered", "operation", operation, "error", err)
	}
}

// Ask asks the owner of a shard and reads its answer into answer, a pointer or nil. Errors: ErrNoOwner, ErrRefused, or ctx's.
func (o *Owners) Ask(ctx context.Context, shard int, operation string, question, answer any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	b, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("ask the owner of shard %d to %s: %w", shard, operation, err)
	}
	m, err := o.c.Conn.RequestWithContext(ctx, o.c.Topology.ShardSubject(strconv.Itoa(shard), operation), b)
	if errors.Is(err, context.Canceled) {
		return err
	}
	if err != nil {
		return fmt.Errorf("ask the owner of shard %d to %s: %w: %w", shard, operation, ErrNoOwner, err)
	}
	var r reply
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return fmt.Errorf("ask the owner of shard %d to %s: %w: its answer cannot be read: %w", shard, operation, ErrNoOwner, err)
	}
	if r.Error != "" {
		return fmt.Errorf("ask the owner of shard %d to %s: %w: %s", shard, operation, ErrRefused, r.Error)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(r.Answer, answer); err != nil {
		return fmt.Errorf("ask the owner of shard %d to %s: %w: its answer cannot be read: %w", shard, operation, ErrNoOwner, err)
	}
	return nil
}

// Gather asks every owner about those of ids that are in its shards, side by side, and joins the answers. What cannot be had is left
// out: a list is better answered without it than not at all.
func Gather[T any](ctx context.Context, o *Owners, operation string, ids []string, shardOf func(string) int) map[string]T {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	byShard := map[int][]string{}
	for _, id := range ids {
		byShard[shardOf(id)] = append(byShard[shardOf(id)], id)
	}
	var mu sync.Mutex
	all := make(map[string]T, len(ids))
	var asking sync.WaitGroup
	for shard, of := range byShard {
		asking.Go(func() {
			var part map[string]T
			if err := o.Ask(ctx, shard, operation, of, &part); err != nil {
				o.c.Log.DebugContext(ctx, "an owner did not answer", "shard", shard, "operation", operation, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for id, v := range part {
				all[id] = v
			}
		})
	}
	asking.Wait()
	return all
}
