package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/jsapi"
)

// What nats.go has no functions for: JetStream's API for snapshots (NATS JetStream API,
// STREAM.SNAPSHOT and STREAM.RESTORE).

const (
	// chunkSize is well below the smallest payload that servers are run with.
	chunkSize = 128 << 10
	// windowSize is how much the server sends ahead of our acknowledgements.
	windowSize = 4 << 20
	// quiet is how long to wait for the next chunk or acknowledgement. The server itself gives up
	// after 5 s.
	quiet = 30 * time.Second
)

// streamState is the server's report of what a stream holds.
type streamState struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
}

type snapshotAnswer struct {
	Config *jetstream.StreamConfig `json:"config"`
	State  *streamState            `json:"state"`
}

// snapshot writes a stream's snapshot to w and returns its configuration, and what it held when the
// snapshot began. The server checks every message's checksum before.
func snapshot(
	ctx context.Context, js jetstream.JetStream, stream string, w io.Writer,
) (jetstream.StreamConfig, streamState, error) {
	fail := func(err error) (jetstream.StreamConfig, streamState, error) {
		return jetstream.StreamConfig{}, streamState{}, fmt.Errorf("take a snapshot of stream %s: %w", stream, err)
	}
	nc := js.Conn()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, -1); err != nil { // bounded by the window
		return fail(err)
	}
	var answer snapshotAnswer
	if err := callWithin(ctx, snapshotTimeout, js, "STREAM.SNAPSHOT."+stream, map[string]any{
		"deliver_subject": inbox, "no_consumers": true, "chunk_size": chunkSize, "window_size": windowSize,
		"jsck": true,
	}, &answer); err != nil {
		return fail(err)
	}
	if answer.Config == nil || answer.State == nil {
		return fail(errors.New("the server's answer says nothing"))
	}
	for next := 1; ; next++ {
		chunk, err := nextMessage(ctx, sub)
		if err != nil {
			return fail(err)
		}
		if len(chunk.Data) == 0 { // the end, and how it came
			if status := chunk.Header.Get("Status"); status != "" && status != "204" {
				return fail(fmt.Errorf("%s %s", status, chunk.Header.Get("Description")))
			}
			return *answer.Config, *answer.State, nil
		}
		if chunk.Reply != "" {
			// …<size>.<number>: a reconnect in between would leave a hole.
			if number := chunk.Reply[strings.LastIndexByte(chunk.Reply, '.')+1:]; number != strconv.Itoa(next) {
				return fail(fmt.Errorf("chunk %s came in place of %d", number, next))
			}
		}
		if _, err := w.Write(chunk.Data); err != nil {
			return fail(err)
		}
		if chunk.Reply != "" {
			if err := nc.Publish(chunk.Reply, nil); err != nil {
				return fail(err)
			}
		}
	}
}

func nextMessage(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// restored is the server's response to the last chunk of a restore.
type restored struct {
	Error *jetstream.APIError `json:"error"`
	State *streamState        `json:"state"`
}

// restore makes a stream of a snapshot. There must be none of its name. In every case the server
// has ended its part when it returns, or has been given up.
func restore(
	ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig, state streamState, r io.Reader,
) (streamState, error) {
	var begun struct {
		Deliver string `json:"deliver_subject"`
	}
	lasting := context.WithoutCancel(ctx) // a restore that has begun must be ended
	request := map[string]any{"config": config, "state": state}
	if err := callWithin(lasting, quiet, js, "STREAM.RESTORE."+config.Name, request, &begun); err != nil {
		return streamState{}, fmt.Errorf("restore stream %s: %w", config.Name, err)
	}
	err := feed(ctx, js.Conn(), begun.Deliver, r)
	answer, ended := exchange(lasting, js.Conn(), begun.Deliver, nil)
	if err = errors.Join(err, ended); err != nil {
		return streamState{}, fmt.Errorf("restore stream %s: %w", config.Name, err)
	}
	var done restored
	switch err := json.Unmarshal(answer, &done); {
	case err != nil:
		return streamState{}, fmt.Errorf("restore stream %s: %w", config.Name, err)
	case done.Error != nil:
		return streamState{}, fmt.Errorf("restore stream %s: %w", config.Name, done.Error)
	case done.State == nil:
		return streamState{}, fmt.Errorf("restore stream %s: the server's answer says nothing", config.Name)
	}
	return *done.State, nil
}

// feed sends a snapshot, chunk by chunk.
func feed(ctx context.Context, nc *nats.Conn, subject string, r io.Reader) error {
	chunk := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(r, chunk)
		if n > 0 {
			answer, err := exchange(ctx, nc, subject, chunk[:n])
			if err != nil {
				return err
			}
			if len(answer) > 0 { // an acknowledgement is empty
				var refused restored
				if err := json.Unmarshal(answer, &refused); err == nil && refused.Error != nil {
					return refused.Error
				}
				return fmt.Errorf("the server answered a chunk with %q", answer)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// exchange sends a chunk to the subject that the server has named for one restore. That is no request of JetStream's
// API: it has no prefix, and what is sent and acknowledged are bytes.
func exchange(ctx context.Context, nc *nats.Conn, subject string, data []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	for {
		m, err := nc.RequestWithContext(ctx, subject, data)
		if err == nil {
			return m.Data, nil
		}
		if !errors.Is(err, nats.ErrNoResponders) {
			return nil, err
		}
		// The server that restores is another of the cluster, and ours does not know yet that it
		// listens. Nobody has got what was sent.
		if !backoff.Sleep(ctx, 50*time.Millisecond) {
			return nil, err
		}
	}
}

// lastOf returns the last message of a subject as the stream's leader has it; nil if there is none.
func lastOf(ctx context.Context, js jetstream.JetStream, stream, subject string) (*entry, error) {
	ctx, end := connected(ctx, quiet, js.Conn())
	defer end()
	m, err := jsapi.Get(ctx, js, stream, jsapi.Selection{Last: subject})
	if jsapi.Code(err) == jetstream.JSErrCodeMessageNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, orLost(ctx, err)
	}
	return &entry{Subject: m.Subject, Header: m.Header, Data: m.Data, Time: m.Time}, nil
}

// snapshotTimeout bounds the wait for a snapshot's begin: checking the messages of a large stream
// takes its time.
const snapshotTimeout = 10 * time.Minute

// errLost reports that the connection went while waiting for a response.
var errLost = errors.New("the connection to NATS was lost")

// callWithin sends a request to JetStream's API.
func callWithin(
	ctx context.Context, most time.Duration, js jetstream.JetStream, what string, request, answer any,
) error {
	ctx, end := connected(ctx, most, js.Conn())
	defer end()
	return orLost(ctx, jsapi.Call(ctx, js, what, request, answer))
}

// connected returns a context that ends after a time, and with errLost when the connection goes.
func connected(ctx context.Context, most time.Duration, nc *nats.Conn) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, most)
	ctx, lose := context.WithCancelCause(ctx)
	lost := nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	go func() {
		select {
		case <-lost:
			lose(errLost)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { lose(nil); cancel(); nc.RemoveStatusListener(lost) }
}

// orLost returns errLost in place of the error that it caused.
func orLost(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}
