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

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signal"
	"github.com/audatex-relay/relay/internal/topology"
)

// EventsStream is the copy of the public log. Services read it with durable consumers.
const EventsStream = "EVENTS"

// DefaultEventsBytes is the largest size of the copy in bytes, unless EventsConfig has another.
const DefaultEventsBytes = 1 << 30

const (
	// askTimeout is the time limit for the relay's requests to the copy's account.
	askTimeout = 10 * time.Second
	// absentTurn is the wait before looking again for an account that does not exist, failedTurn
	// the wait after other failures.
	absentTurn = 5 * time.Minute
	failedTurn = 10 * time.Second
	// pruneEvery is how often consumers are looked for whose reader is gone without a change,
	// because its key has expired.
	pruneEvery = time.Minute
)

// EventsConfig is what NewEvents needs.
type EventsConfig struct {
	Conn     *nats.Conn // the relay's
	Topology topology.Topology
	// MaxBytes is the size beyond which the copy drops its oldest events; 0 means
	// DefaultEventsBytes. It is used when the copy is made; a size that an operator has set later
	// is kept.
	MaxBytes int64
	// Known reports whether a reader of this name still exists; if not, its consumer is removed. It
	// is nil if the server's configuration names the readers: then a consumer is removed when it
	// has not been used for as long as the log keeps events.
	Known func(reader string) bool
	// Every is how often readers are looked for that are gone without a change; 0 means once a
	// minute.
	Every time.Duration
	Log   *slog.Logger
}

// Events maintains the copy of the log for services: a stream in an account of its own that sources
// the relay's log, except what only the owner of a callback may know. It has its own limits and
// drops the oldest events, so that it never delays the relay. Readers may not create consumers,
// because a consumer can deliver to any subject of its account, no matter who created it. So the relay makes
// them on request: one pull consumer for each reader, with the reader's name.
type Events struct {
	c  EventsConfig
	js jetstream.JetStream
	// changed receives when readers may be gone.
	changed signal.Signal
}

// NewEvents returns Events that do nothing until Run.
func NewEvents(c EventsConfig) (*Events, error) {
	js, err := jetstream.NewWithAPIPrefix(c.Conn, eventsAPI)
	if err != nil {
		return nil, fmt.Errorf("open JetStream of account %s: %w", eventsAccount, err)
	}
	return &Events{c: c, js: js, changed: signal.New()}, nil
}

// Changed must be called after a key was changed or removed. It does not block. e may be nil.
func (e *Events) Changed() {
	if e != nil {
		e.changed.Set()
	}
}

// Run makes the copy, handles the readers' requests, and removes the consumers of readers that are
// gone, until ctx ends. It continues after all errors, because nothing in the relay depends on the
// copy. A server without the accounts has no copy.
func (e *Events) Run(ctx context.Context) error {
	if !e.open(ctx) {
		return nil
	}
	subject := consumerSubject(e.c.Topology.Prefix, "*", "*")
	asked, err := e.c.Conn.QueueSubscribe(subject, "relay", func(m *nats.Msg) { e.answer(ctx, m) })
	if err != nil {
		return fmt.Errorf("listen for the readers of %s: %w", EventsStream, err)
	}
	defer func() { _ = asked.Unsubscribe() }()
	tick := time.NewTicker(cmp.Or(e.c.Every, pruneEvery))
	defer tick.Stop()
	failing := false // logged once, because an outage of the store may last for hours
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

// open makes the copy. It tries until it succeeds or ctx ends.
func (e *Events) open(ctx context.Context) bool {
	for lastLogged := ""; ; {
		err := e.Apply(ctx)
		if err == nil {
			return true
		}
		turn, level := failedTurn, slog.LevelWarn
		if errors.Is(err, ErrNoEvents) { // a cluster may do without
			turn, level = absentTurn, slog.LevelInfo
		}
		if lastLogged != err.Error() && ctx.Err() == nil {
			e.c.Log.Log(ctx, level,
				"there is no copy of the log for services that read it by consumers; it is tried again", "again_after",
				turn.String(), "error", err)
			lastLogged = err.Error()
		}
		if !backoff.Sleep(ctx, turn) {
			return false
		}
	}
}

// ErrNoEvents means that the server has no account for the copy of the log.
var ErrNoEvents = errors.New(
	"the NATS server has no account " + eventsAccount + " as deploy/nats/accounts.conf makes it")

// Apply makes the copy, or updates it to the present configuration. It changes nothing else.
func (e *Events) Apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	maxBytes := cmp.Or(e.c.MaxBytes, DefaultEventsBytes)
	there, err := e.js.Stream(ctx, EventsStream)
	switch {
	case err == nil:
		maxBytes = there.CachedInfo().Config.MaxBytes
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled),
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: %w", ErrNoEvents, err)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("look for stream %s: %w", EventsStream, err)
	}
	if _, err := e.js.CreateOrUpdateStream(ctx, eventsStream(e.c.Topology, maxBytes)); err != nil {
		return fmt.Errorf("make stream %s: %w", EventsStream, err)
	}
	return nil
}

// eventsStream returns the configuration of the copy.
func eventsStream(t topology.Topology, maxBytes int64) jetstream.StreamConfig {
	source := &jetstream.StreamSource{
		Name:     t.Events(),
		External: &jetstream.ExternalStream{APIPrefix: logAPI, DeliverPrefix: copySubject(t.Prefix)},
		// These are filters: without a destination the subject is kept.
		SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: topology.OrderFilter("*", "*")}},
	}
	for _, subject := range operational(relay.SharedKinds()) {
		source.SubjectTransforms = append(source.SubjectTransforms, jetstream.SubjectTransformConfig{Source: subject})
	}
	return jetstream.StreamConfig{
		Name: EventsStream, Description: "A copy of the public log, for services",
		Sources: []*jetstream.StreamSource{source}, Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage,
		Replicas: t.Replicas, MaxAge: t.Retention, MaxBytes: maxBytes, MaxMsgs: -1, MaxMsgSize: -1,
		MaxMsgsPerSubject: -1, Discard: jetstream.DiscardOld, MaxConsumers: maxReaders, Duplicates: time.Second,
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

// EventsBytes returns the largest size of the copy on the disk of a data directory: a quarter of
// the free space, so that there is room for the log itself, but at most DefaultEventsBytes.
func EventsBytes(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return DefaultEventsBytes
	}
	return min(DefaultEventsBytes, max(int64(st.Bavail)*st.Bsize/4, 1<<20))
}
