package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// Message is one message of a log.
type Message struct {
	Seq     uint64
	Subject string
	Header  nats.Header
	Data    []byte
	Time    time.Time // when the log took it
}

// Within returns a context for work of many requests that may take so long in all. When that time is
// over, its caller gives up: unlike a deadline it gives no request less time than it needs, and what
// has no response then is not taken for a failure of the store. The cause of its end is
// context.DeadlineExceeded.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}

// bounds returns the first and the last sequence of a stream. An empty stream has first = last+1.
func (s *Store) bounds(ctx context.Context, stream string) (first, last uint64, err error) {
	state, err := s.state(ctx, stream)
	return state.FirstSeq, state.LastSeq, err
}

// state returns the state of a stream. An empty one has FirstSeq = LastSeq+1.
func (s *Store) state(ctx context.Context, stream string) (state jetstream.StreamState, err error) {
	fail := func(err error) (jetstream.StreamState, error) {
		return jetstream.StreamState{}, fmt.Errorf("read the state of %s: %w", stream, err)
	}
	if err := s.health.reachable(); err != nil {
		return fail(err)
	}
	sent := time.Now()
	st, err := s.js.Stream(ctx, stream)
	s.health.read(stream, sent, err)
	if err != nil {
		return fail(classify(err))
	}
	state = st.CachedInfo().State
	s.intact.of(stream).begin(point{state.LastSeq, state.LastTime})
	state.FirstSeq = max(state.FirstSeq, 1)
	return state, nil
}

// get returns one message by its sequence.
func (s *Store) get(ctx context.Context, stream string, seq uint64) (Message, error) {
	m, err := s.one(ctx, stream, jsapi.Selection{Seq: seq},
		func(ctx context.Context, st jetstream.Stream) (*jetstream.RawStreamMsg, error) {
			return st.GetMsg(ctx, seq)
		})
	if err != nil {
		return Message{}, fmt.Errorf("read message %d of %s: %w", seq, stream, err)
	}
	return m, nil
}

// last returns the last message of a subject; wildcards are allowed.
func (s *Store) last(ctx context.Context, stream, subject string) (Message, error) {
	m, err := s.one(ctx, stream, jsapi.Selection{Last: subject},
		func(ctx context.Context, st jetstream.Stream) (*jetstream.RawStreamMsg, error) {
			return st.GetLastMsgForSubject(ctx, subject)
		})
	if err != nil {
		return Message{}, fmt.Errorf("read the last message of %s: %w", subject, err)
	}
	return m, nil
}

// one asks any copy of a stream for a message, and its leader if that one is silent.
func (s *Store) one(
	ctx context.Context, stream string, atLeader jsapi.Selection,
	ask func(context.Context, jetstream.Stream) (*jetstream.RawStreamMsg, error),
) (Message, error) {
	st, err := s.handle(ctx, stream)
	if err != nil {
		return Message{}, err
	}
	var m *jetstream.RawStreamMsg
	silent, err := s.direct(ctx, stream, func(ctx context.Context) (err error) {
		m, err = ask(ctx, st)
		return err
	})
	switch {
	case silent:
		return s.atLeader(ctx, stream, atLeader)
	case err != nil:
		return Message{}, classify(err)
	}
	return fromRaw(m), nil
}

// scan returns up to most messages of the filters from a sequence (or, if since is set, from a
// time) on, and whether more are there. A result without more ends where the stream ended when it
// was asked for.
func (s *Store) scan(
	ctx context.Context, stream string, from uint64, since time.Time, filters []string, most int,
) ([]Message, bool, error) {
	var all uint64
	return s.scanCounted(ctx, stream, wholeMessages, from, since, filters, most, &all)
}

// scanChunk is for how many messages a scan makes room at first.
const scanChunk = 256

// manner is how messages are read: headersOnly and gently, or neither.
type manner uint8

const (
	wholeMessages manner = 0
	headersOnly   manner = 1 << iota
	// gently is a few messages at a time. What is on its way meanwhile has its turn in between.
	gently
)

// scanCounted is scan; all is set to how many there are, regardless of most.
func (s *Store) scanCounted(
	ctx context.Context, stream string, how manner, from uint64, since time.Time, filters []string, most int, all *uint64,
) ([]Message, bool, error) {
	var messages []Message
	more, err := s.scanEach(ctx, stream, how, from, since, filters, most, all, func(m Message) {
		if messages == nil {
			messages = make([]Message, 0, min(most, scanChunk))
		}
		messages = append(messages, m)
	})
	if err != nil {
		return nil, false, err
	}
	return messages, more, nil
}

// scanEach is scanCounted for one who does not keep all: it calls each with the messages as they
// come, and returns whether more are there.
func (s *Store) scanEach(
	ctx context.Context, stream string, how manner, from uint64, since time.Time, filters []string, most int, all *uint64,
	each func(Message),
) (more bool, err error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("scan %s from %d: %w", stream, from, err) }
	if !since.IsZero() && len(filters) > 1 {
		// With several filters the server begins at the first message that any of them ever had after that time, and so
		// leaves out what the others have before it.
		if from, err = s.positionAt(ctx, stream, since); err != nil {
			return false, err
		}
		since = time.Time{}
	}
	c := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1), FilterSubjects: filters,
		HeadersOnly: how&headersOnly != 0,
	}
	if !since.IsZero() {
		c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &since
	}
	came, last := 0, uint64(0)
	there, full, err := s.readNow(ctx, stream, c, how, uint64(most), func(m Message) {
		came, last = came+1, m.Seq
		each(m)
	})
	if err != nil {
		return fail(err)
	}
	*all = there
	if more := there > uint64(most); more && came > 0 || full && s.topo.Replicas <= 1 && !overwritten(stream) {
		return more, nil
	}
	// The reader's node may lag, or have lost count: only the leader knows the end.
	if came > 0 {
		from, since = last+1, time.Time{}
	}
	left, more, err := s.rest(ctx, stream, from, since, filters, most-came)
	if err != nil {
		return fail(err)
	}
	*all += uint64(len(left))
	for _, m := range left {
		each(m)
	}
	return more, nil
}

// positionAt returns the position of the first message that a log took at or after a time; the position
// behind its end if there is none.
func (s *Store) positionAt(ctx context.Context, stream string, at time.Time) (uint64, error) {
	_, last, err := s.bounds(ctx, stream) // first: what comes meanwhile is behind it, and later than now
	if err != nil {
		return 0, err
	}
	switch first, err := s.atLeader(ctx, stream, jsapi.Selection{Next: ">", Since: &at}); {
	case errors.Is(err, ErrNotFound):
		return last + 1, nil
	case err != nil:
		return 0, fmt.Errorf("look in %s for the first message at %s: %w", stream, at, err)
	default:
		return first.Seq, nil
	}
}

// overwritten reports whether a stream is a bucket: of what is overwritten while it is counted a
// server counts the old message as gone before it counts the new one as there, so that its count is
// too low by as many, already when a reader is made.
func overwritten(stream string) bool { return strings.HasPrefix(stream, "KV_") }

// The server sends a tail at most so many messages, and bytes, before it is asked for more: what waits in a connection
// holds up all that uses it, and the server closes one in which too much waits. No message must be larger than the
// bytes, or the tail would wait for it without end.
const (
	tailMessages = 512
	tailBytes    = 32 << 20
)

// Tail reads a log from a sequence on and then follows it. It survives a lost connection and a
// change of leader by itself.
type Tail struct {
	s        *Store
	messages jetstream.MessagesContext
	stream   string
	consumer string   // the server's reader that sent the last message
	held     *Message // from another one, until the log is compared with what is known of it
}

func (s *Store) tail(ctx context.Context, stream string, from uint64, heads bool, filters ...string) (*Tail, error) {
	c := jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1), FilterSubjects: filters,
		InactiveThreshold: readerIdle, HeadersOnly: heads,
	}
	consumer, err := s.js.OrderedConsumer(ctx, stream, c)
	if err != nil {
		return nil, fmt.Errorf("follow %s from %d: %w", stream, from, classify(err))
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(tailMessages,
		max(tailBytes, 2*s.MaxMessage())))
	if err != nil {
		return nil, fmt.Errorf("follow %s from %d: %w", stream, from, classify(err))
	}
	return &Tail{s: s, messages: messages, stream: stream}, nil
}

// Next waits for the next message. Its error is ctx's own when ctx ended. Where the server's reader
// had to begin again behind the last message, Next first makes sure that the log still has that
// one: numbers above one that is lost are given out again, and the messages that had them first
// would have been passed over.
func (t *Tail) Next(ctx context.Context) (Message, error) {
	fail := func(err error) (Message, error) {
		if ctx.Err() != nil {
			return Message{}, ctx.Err()
		}
		return Message{}, fmt.Errorf("follow %s: %w", t.stream, classify(err))
	}
	log := t.s.intact.of(t.stream)
	if t.held == nil {
		sent, err := t.messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fail(err)
		}
		meta, err := sent.Metadata()
		if err != nil {
			return Message{}, fmt.Errorf("read a message's position: %w", err)
		}
		m := asMessage(sent, meta)
		if meta.Consumer == t.consumer {
			log.show(m)
			return m, nil
		}
		t.held, t.consumer = &m, meta.Consumer
	}
	if err := t.s.mustHave(ctx, log); err != nil {
		return fail(err)
	}
	m := *t.held
	t.held = nil
	log.show(m)
	return m, nil
}

// Stop ends the reader.
func (t *Tail) Stop() { t.messages.Stop() }

// handle returns a stream without asking the server each time.
func (s *Store) handle(ctx context.Context, stream string) (jetstream.Stream, error) {
	if err := s.health.reachable(); err != nil {
		return nil, fmt.Errorf("open stream %s: %w", stream, err)
	}
	if h, ok := s.handles.Load(stream); ok {
		return h.(jetstream.Stream), nil
	}
	sent := time.Now()
	st, err := s.js.Stream(ctx, stream)
	s.health.read(stream, sent, err)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", stream, classify(err))
	}
	s.handles.Store(stream, st)
	return st, nil
}

func fromRaw(m *jetstream.RawStreamMsg) Message {
	return Message{Seq: m.Sequence, Subject: m.Subject, Header: m.Header, Data: m.Data, Time: m.Time}
}

func asMessage(m jetstream.Msg, meta *jetstream.MsgMetadata) Message {
	return Message{Seq: meta.Sequence.Stream, Subject: m.Subject(), Header: m.Headers(),
		Data: m.Data(), Time: meta.Timestamp}
}
