// Package owners sends questions to the replica that owns a shard: the HTTP API runs on every replica, but only a
// connection's owner can poll it now, and only a callback's owner knows what waits for it. A question is a NATS request
// to a subject of the shard, on which its owner listens; it gets a response or, if nobody owns the shard at the moment,
// ErrNoOwner. Begin with Serve and Ask.
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
	// ErrNoOwner means that nobody responded for the shard: it is being handed over, or NATS cannot
	// be reached. The caller can ask again in a few seconds.
	ErrNoOwner = errors.New("the owner of the shard does not answer")
	// ErrRefused means that the owner could not do what was asked. The error's text is the owner's.
	ErrRefused = errors.New("the owner refused")
)

const (
	// answerWithin bounds a handler. The caller waits a little longer.
	answerWithin = 30 * time.Second
	// atOnce is how many questions of one shard are handled at the same time; more wait in the
	// subscription.
	atOnce = 16
	// patience is how long a question without a deadline of its own waits.
	patience = 2 * time.Second
)

// Handler handles a question. Its result is encoded as JSON. An error's text is sent to the caller,
// so it must contain no secret.
type Handler func(ctx context.Context, question json.RawMessage) (any, error)

// Config is what New needs.
type Config struct {
	Conn     *nats.Conn
	Topology topology.Topology
	Log      *slog.Logger
}

// Owners asks the owners of shards, and handles questions about the shards that this process owns.
type Owners struct {
	c        Config
	handlers map[string]Handler
}

// New returns an Owners without handlers. Ask works at once, and for every shard.
func New(c Config) *Owners { return &Owners{c: c} }

// Handle sets the handlers by operation (a subject token). It must be called before the first
// Serve.
func (o *Owners) Handle(handlers map[string]Handler) { o.handlers = handlers }

// reply is the response as it is sent.
type reply struct {
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Serve handles the questions about a shard until ctx ends.
func (o *Owners) Serve(ctx context.Context, lease *shard.Lease) error {
	questions := make(chan *nats.Msg, 4*atOnce)
	sub, err := o.c.Conn.ChanSubscribe(o.c.Topology.ShardSubject(strconv.Itoa(lease.Shard()), "*"), questions)
	if err != nil {
		return fmt.Errorf("answer for shard %d: %w", lease.Shard(), err)
	}
	var answering sync.WaitGroup
	defer answering.Wait()
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed, and the subscription with it
	slots := make(chan struct{}, atOnce)
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-questions:
			if !lease.Valid() { // the caller can ask again, and may find the new owner
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
		r.Error = "unknown operation " + operation // a newer replica has asked an older one
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
		o.c.Log.WarnContext(ctx, "a question to the owner of a shard could not be answered", "operation", operation,
			"error", err)
	}
}

// Ask asks the owner of a shard and decodes its response into answer, a pointer or nil. It returns
// ErrNoOwner, ErrRefused, or the error of ctx.
func (o *Owners) Ask(ctx context.Context, shard int, operation string, question, answer any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	fail := func(err error) error { return fmt.Errorf("ask the owner of shard %d to %s: %w", shard, operation, err) }
	b, err := json.Marshal(question)
	if err != nil {
		return fail(err)
	}
	m, err := o.c.Conn.RequestWithContext(ctx, o.c.Topology.ShardSubject(strconv.Itoa(shard), operation), b)
	if errors.Is(err, context.Canceled) {
		return err
	}
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrNoOwner, err))
	}
	var r reply
	if err = json.Unmarshal(m.Data, &r); err == nil && r.Error != "" {
		return fail(fmt.Errorf("%w: %s", ErrRefused, r.Error))
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(r.Answer, answer)
	}
	if err != nil {
		return fail(fmt.Errorf("%w: its answer cannot be read: %w", ErrNoOwner, err))
	}
	return nil
}

// Gather asks all owners of the given ids at the same time and merges their results. Ids whose
// owner does not respond are left out: an incomplete list is better than none.
func Gather[T any](
	ctx context.Context, o *Owners, operation string, ids []string, shardOf func(string) int,
) map[string]T {
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
				o.c.Log.DebugContext(ctx, "an owner did not answer", "shard", shard,
					"operation", operation, "error", err)
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

const (
	// lookAtOnce is how many ids of one question are handled in parallel. lookAll is how long that
	// may take in total; the caller waits little longer.
	lookAtOnce = 16
	lookAll    = time.Second
)

// Answer returns a Handler for questions of one type.
func Answer[Q any](answer func(ctx context.Context, question Q) (any, error)) Handler {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var question Q
		if err := json.Unmarshal(raw, &question); err != nil {
			return nil, fmt.Errorf("the question cannot be read: %w", err)
		}
		return answer(ctx, question)
	}
}

// Look returns a Handler for questions about several ids, as Gather asks them: its result is what
// is known of each.
func Look[T any](look func(ctx context.Context, id string) (T, bool)) Handler {
	return Answer(func(ctx context.Context, ids []string) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, lookAll)
		defer cancel()
		var (
			mu      sync.Mutex
			looking sync.WaitGroup
			known   = make(map[string]T, len(ids))
			slots   = make(chan struct{}, lookAtOnce)
		)
		for _, id := range ids {
			slots <- struct{}{}
			looking.Go(func() {
				defer func() { <-slots }()
				if v, ok := look(ctx, id); ok {
					mu.Lock()
					defer mu.Unlock()
					known[id] = v
				}
			})
		}
		looking.Wait()
		return known, nil
	})
}
