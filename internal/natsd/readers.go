package natsd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/topology"
)

// The limits of a reader's requests.
const (
	maxReaders        = 1000 // each consumer of a replicated stream is a raft group
	maxFilters        = 100  // many filters make a consumer slow: a hundred take 3 ms to set up, a thousand 140
	maxAckWait        = time.Hour
	defaultAckWait    = 30 * time.Second
	maxAckPending     = 10_000
	defaultAckPending = 1000
)

// readerName is the form of a reader's name: a key's id, or its name in the server's configuration.
var readerName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,62}$`)

// ConsumerRequest is what a reader sends to events.consumer.put: how it wants to read. All fields
// are optional.
type ConsumerRequest struct {
	// FilterSubjects are below audatex, for example audatex.leeds.parts.>; none means all events.
	FilterSubjects []string `json:"filterSubjects"`
	// StartFrom is "now" (the default), "earliest" or an RFC 3339 time: the consumer begins with
	// the events that the log took from then on. It is used only when the consumer is made.
	StartFrom string `json:"startFrom"`
	// AckWaitSeconds is the time after which an unacknowledged event is delivered again; default
	// 30, at most 3600.
	AckWaitSeconds int `json:"ackWaitSeconds"`
	// MaxAckPending is how many events may be unacknowledged at a time; default 1000, at most
	// 10,000.
	MaxAckPending int `json:"maxAckPending"`
}

// ConsumerAnswer is the relay's response: where to pull from, or an error.
type ConsumerAnswer struct {
	Stream   string `json:"stream,omitempty"`
	Consumer string `json:"consumer,omitempty"`
	Error    string `json:"error,omitempty"`
}

// errRequest marks errors in a request, which are sent to the reader. Other errors are only logged.
var errRequest = errors.New("the request cannot be granted")

// answer handles a reader's request. The subject contains the reader's name: its account imports
// only the subject with its own name.
func (e *Events) answer(ctx context.Context, m *nats.Msg) {
	rest, _ := strings.CutPrefix(m.Subject, e.c.Topology.Prefix+".readers.")
	reader, operation, _ := strings.Cut(rest, ".")
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var err error
	switch {
	case !readerName.MatchString(reader) || e.c.Known != nil && !e.c.Known(reader):
		err = fmt.Errorf("%w: there is no reader of this name", errRequest)
	case operation == "put":
		err = e.put(ctx, reader, m.Data)
	case operation == "delete":
		if err = e.js.DeleteConsumer(ctx, EventsStream, reader); errors.Is(err, jetstream.ErrConsumerNotFound) {
			err = nil
		}
	default:
		err = fmt.Errorf("%w: there is no operation %q", errRequest, operation)
	}
	a := ConsumerAnswer{Stream: EventsStream, Consumer: reader}
	switch {
	case errors.Is(err, errRequest):
		a = ConsumerAnswer{Error: err.Error()}
	case err != nil:
		e.c.Log.Warn("a reader's consumer could not be changed", "key", reader, "operation", operation, "error", err)
		a = ConsumerAnswer{Error: "the relay could not do it now; try again later"}
	}
	body, err := json.Marshal(a)
	if err == nil {
		err = m.Respond(body)
	}
	if err != nil && !errors.Is(err, nats.ErrMsgNoReply) {
		e.c.Log.Warn("a reader could not be answered", "key", reader, "error", err)
	}
}

// put makes a reader's consumer, or changes what can be changed of it.
func (e *Events) put(ctx context.Context, reader string, body []byte) error {
	c, err := consumerConfig(body)
	if err != nil {
		return err
	}
	c.Durable, c.InactiveThreshold = reader, e.c.Topology.Retention
	there, err := e.js.Consumer(ctx, EventsStream, reader)
	switch {
	case err == nil: // its position stays; where it began cannot be changed
		was := there.CachedInfo().Config
		c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = was.DeliverPolicy, was.OptStartSeq, was.OptStartTime
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return fmt.Errorf("look for the consumer: %w", err)
	case c.OptStartTime != nil && len(c.FilterSubjects) > 1:
		if c.OptStartSeq, err = e.positionAt(ctx, *c.OptStartTime); err != nil {
			return err
		}
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartSequencePolicy, nil
	}
	if _, err := e.js.CreateOrUpdateConsumer(ctx, EventsStream, c); err != nil {
		return fmt.Errorf("make the consumer: %w", err)
	}
	return nil
}

// positionAt returns the position in the copy of the first event that it took at or after a time; the position behind
// its end if there is none. A consumer with several filters that begins by time would leave events out: the server
// begins at the first event that any of the filters ever had after that time. Without a filter it begins where it
// should. The relay may not read the copy, but it may make consumers of it, and their state has the position.
func (e *Events) positionAt(ctx context.Context, at time.Time) (uint64, error) {
	probe, err := e.js.CreateConsumer(ctx, EventsStream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &at, AckPolicy: jetstream.AckNonePolicy,
		Replicas: 1, InactiveThreshold: askTimeout,
	})
	if err != nil {
		return 0, fmt.Errorf("look for the first event at %s: %w", at, err)
	}
	info := probe.CachedInfo()
	err = e.js.DeleteConsumer(ctx, EventsStream, info.Name)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, fmt.Errorf("remove the consumer that looked for the first event: %w", err)
	}
	return info.Delivered.Stream + 1, nil
}

// consumerConfig parses a request.
func consumerConfig(body []byte) (jetstream.ConsumerConfig, error) {
	r := ConsumerRequest{
		StartFrom: "now", AckWaitSeconds: int(defaultAckWait / time.Second), MaxAckPending: defaultAckPending,
	}
	if len(bytes.TrimSpace(body)) > 0 {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			return jetstream.ConsumerConfig{}, fmt.Errorf("%w: %w", errRequest, err)
		}
	}
	c := jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1,
		FilterSubjects: r.FilterSubjects}
	switch r.StartFrom {
	case "now":
		c.DeliverPolicy = jetstream.DeliverNewPolicy
	case "earliest":
		c.DeliverPolicy = jetstream.DeliverAllPolicy
	default:
		at, err := time.Parse(time.RFC3339, r.StartFrom)
		if err != nil {
			return c, fmt.Errorf("%w: startFrom is now, earliest or an RFC 3339 time", errRequest)
		}
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &at
	}
	if r.AckWaitSeconds < 1 || time.Duration(r.AckWaitSeconds)*time.Second > maxAckWait {
		return c, fmt.Errorf("%w: ackWaitSeconds is from 1 to %d", errRequest, int(maxAckWait/time.Second))
	}
	if r.MaxAckPending < 1 || r.MaxAckPending > maxAckPending {
		return c, fmt.Errorf("%w: maxAckPending is from 1 to %d", errRequest, maxAckPending)
	}
	c.AckWait, c.MaxAckPending = time.Duration(r.AckWaitSeconds)*time.Second, r.MaxAckPending
	if len(r.FilterSubjects) > maxFilters {
		return c, fmt.Errorf("%w: at most %d filterSubjects", errRequest, maxFilters)
	}
	for i, f := range r.FilterSubjects {
		if !strings.HasPrefix(f, topology.PublicRoot+".") || !server.IsValidSubject(f) {
			return c, fmt.Errorf("%w: filterSubjects[%d] is not a subject below %s", errRequest, i, topology.PublicRoot)
		}
		for j, other := range r.FilterSubjects[:i] {
			if server.SubjectsCollide(f, other) {
				return c, fmt.Errorf("%w: filterSubjects[%d] and [%d] overlap", errRequest, j, i)
			}
		}
	}
	return c, nil
}
