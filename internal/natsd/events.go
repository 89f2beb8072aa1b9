package natsd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/topology"
)

// EventsStream is the copy of the public log that services read by durable consumers of their own.
const EventsStream = "EVENTS"

// DefaultEventsBytes is how large the copy may grow unless EventsConfig says otherwise, in bytes.
const DefaultEventsBytes = 1 << 30

const (
	// askTimeout bounds what the relay asks of the copy's account at one time.
	askTimeout = 10 * time.Second
	// absentTurn is how long is waited before looking again for an account that is not there, failedTurn after another failure.
	absentTurn = 5 * time.Minute
	failedTurn = 10 * time.Second
	// pruneEvery is how often is looked for consumers whose readers are gone without a change: their keys have expired.
	pruneEvery = time.Minute
)

// EventsConfig is what NewEvents needs.
type EventsConfig struct {
	Conn     *nats.Conn // the relay's
	Topology topology.Topology
	// MaxBytes is the size beyond which the copy drops its oldest events; 0: DefaultEventsBytes. It counts when the copy is made: a
	// size that an operator has set since is left.
	MaxBytes int64
	// Known answers whether a reader of this name still exists; the consumer of one that does not is removed. Nil where the server's
	// configuration names the readers: there a consumer goes when it has not been used for as long as the log keeps an event.
	Known func(reader string) bool
	// Every is how often is looked for readers that are gone without a change, 0 for the usual minute.
	Every time.Duration
	Log   *slog.Logger
}

// Events keeps the copy of the log for services: a stream in an account of its own that sources the relay's log, except what only the
// owner of a callback may know. It has limits of its own and drops what is oldest, so that it never holds the relay up. Readers have
// no right to create consumers: a consumer may be told to deliver to any subject of its account, whoever made it. So the relay makes
// them, on request, one for each reader, of its name, to be pulled from.
type Events struct {
	c  EventsConfig
	js jetstream.JetStream
	// changed says that readers may have gone.
	changed chan struct{}
}

// NewEvents answers Events that do nothing until Run.
func NewEvents(c EventsConfig) (*Events, error) {
	js, err := jetstream.NewWithAPIPrefix(c.Conn, eventsAPI)
	if err != nil {
		return nil, fmt.Errorf("open JetStream of account %s: %w", eventsAccount, err)
	}
	return &Events{c: c, js: js, changed: make(chan struct{}, 1)}, nil
}

// Changed tells that a key was changed or removed. It does not block. Nil has no consumers to care for.
func (e *Events) Changed() {
	if e == nil {
		return
	}
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// Run makes the copy, answers what readers ask, and removes the consumers of those who are gone, until ctx ends. It goes on through any
// trouble: nothing of the relay waits for the copy. On a server without the accounts for it there is none.
func (e *Events) Run(ctx context.Context) error {
	if !e.open(ctx) {
		return nil
	}
	asked, err := e.c.Conn.QueueSubscribe(consumerSubject(e.c.Topology.Prefix, "*", "*"), "relay", func(m *nats.Msg) { e.answer(ctx, m) })
	if err != nil {
		return fmt.Errorf("listen for the readers of %s: %w", EventsStream, err)
	}
	defer func() { _ = asked.Unsubscribe() }()
	tick := time.NewTicker(cmp.Or(e.c.Every, pruneEvery))
	defer tick.Stop()
	failing := false // told once: an outage of the store may last for hours
	for {
		err := e.prune(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			e.c.Log.Warn("the consumers of keys that are gone could not be removed; it is tried again", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-e.changed:
		case <-tick.C:
		}
	}
}

// open makes the copy, trying until it stands or ctx ends.
func (e *Events) open(ctx context.Context) bool {
	for told := ""; ; {
		err := e.Apply(ctx)
		if err == nil {
			return true
		}
		turn, level := failedTurn, slog.LevelWarn
		if errors.Is(err, ErrNoEvents) { // a cluster may well be without
			turn, level = absentTurn, slog.LevelInfo
		}
		if told != err.Error() && ctx.Err() == nil {
			e.c.Log.Log(ctx, level, "there is no copy of the log for services that read it by consumers; it is tried again", "again_after", turn.String(), "error", err)
			told = err.Error()
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(turn):
		}
	}
}

// ErrNoEvents says that the server has no account for the copy of the log.
var ErrNoEvents = errors.New("the NATS server has no account " + eventsAccount + " as deploy/nats/accounts.conf makes it")

// Apply makes the copy, or brings it to the present configuration. It changes nothing else.
func (e *Events) Apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	maxBytes := e.c.MaxBytes
	if maxBytes == 0 {
		maxBytes = DefaultEventsBytes
	}
	there, err := e.js.Stream(ctx, EventsStream)
	switch {
	case err == nil:
		maxBytes = there.CachedInfo().Config.MaxBytes
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: %w", ErrNoEvents, err)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("look for stream %s: %w", EventsStream, err)
	}
	if _, err := e.js.CreateOrUpdateStream(ctx, eventsStream(e.c.Topology, maxBytes)); err != nil {
		return fmt.Errorf("make stream %s: %w", EventsStream, err)
	}
	return nil
}

// eventsStream is the configuration of the copy.
func eventsStream(t topology.Topology, maxBytes int64) jetstream.StreamConfig {
	source := &jetstream.StreamSource{
		Name:     t.Events(),
		External: &jetstream.ExternalStream{APIPrefix: logAPI, DeliverPrefix: copySubject(t.Prefix)},
		// Filters: without a destination the subject stays as it is.
		SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: topology.OrderFilter("*", "*")}},
	}
	for _, subject := range operational(shared) {
		source.SubjectTransforms = append(source.SubjectTransforms, jetstream.SubjectTransformConfig{Source: subject})
	}
	return jetstream.StreamConfig{
		Name: EventsStream, Description: "A copy of the public log, for services", Sources: []*jetstream.StreamSource{source},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: t.Replicas,
		MaxAge: t.Retention, MaxBytes: maxBytes, MaxMsgs: -1, MaxMsgSize: -1, MaxMsgsPerSubject: -1,
		Discard: jetstream.DiscardOld, MaxConsumers: maxReaders, Duplicates: time.Second,
	}
}

// prune removes the consumers whose readers are gone.
func (e *Events) prune(ctx context.Context) error {
	if e.c.Known == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := e.js.Stream(ctx, EventsStream)
	if err != nil {
		return fmt.Errorf("look for stream %s: %w", EventsStream, err)
	}
	names := stream.ConsumerNames(ctx)
	for name := range names.Name() {
		if e.c.Known(name) {
			continue
		}
		if err := stream.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("remove the consumer of key %s: %w", name, err)
		}
		e.c.Log.Info("the consumer of a key that is gone was removed", "key", name)
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("list the consumers of %s: %w", EventsStream, err)
	}
	return nil
}

// EventsBytes is how large the copy may grow on the disk of a data directory: a quarter of what is free, so that the log itself has
// room, and no more than DefaultEventsBytes.
func EventsBytes(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return DefaultEventsBytes
	}
	return min(DefaultEventsBytes, max(int64(st.Bavail)*st.Bsize/4, 1<<20))
}
