package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/topology"
)

// How reads and writes end when they do not succeed. A write ends in one of five ways: nil, ErrConflict (the condition
// did not hold, nothing was written), ErrUnclear (no response in time: it may have been written, read back),
// ErrUnavailable (it was not written; try again later) or ErrTooLarge.
var (
	ErrNotFound    = errors.New("not found in the store")
	ErrConflict    = errors.New("the stored document or log is not at the expected place")
	ErrUnclear     = errors.New("the store gave no clear answer")
	ErrUnavailable = errors.New("the store cannot be used")
	ErrTooLarge    = errors.New("too large for the store")
	ErrUnfit       = errors.New("cannot be written as JSON")
)

// JetStream's error codes that nats.go has no name for.
const (
	codeAccountFull     = 10002 // resource limits exceeded for account
	codeNoPeers         = 10005 // too few servers of the cluster are there to place a stream
	codeUnavailable     = 10008 // of the cluster: no leader of its own
	codeNotLeader       = 10009
	codeServerFull      = 10023 // insufficient resources
	codeStorageFull     = 10047 // insufficient storage resources
	codeMessageTooLarge = 10054
	// maximum bytes or messages of the stream; a single message that its files cannot hold
	codeStoreFailed       = 10077
	codeStreamOffline     = 10118
	codeConditionNotReady = 10163 // a leader just elected does not know the subject's last sequence yet
	codeStreamOfflineWhy  = 10194
)

// Reason is why the store cannot be used, as far as its responses show.
type Reason string

// The reasons.
const (
	Unreachable Reason = "unreachable" // no connection to NATS
	NoLeader    Reason = "no-leader"   // no server leads the stream: an election, or too few servers
	NoAnswer    Reason = "no-answer"   // nothing came back in time
	// no room on the disk, or within a limit of the account, the server or the stream
	Full    Reason = "full"
	Refused Reason = "refused" // any other error from the server
)

// classify turns an error of the client library into one of ours; the library's own stays in the
// chain.
func classify(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{topology.ErrRefused, ErrUnavailable, ErrUnclear, ErrConflict,
		ErrNotFound, ErrTooLarge, ErrUnfit} {
		if errors.Is(err, known) {
			return err
		}
	}
	_, kind := judge(err)
	return fmt.Errorf("%w: %w", kind, err)
}

// judge maps an error of the client library to one of ours. It also returns the reason if the error
// means that the store cannot be used, "" if the store works. A write that may have been sent and
// got no response is unclear, for any reason.
func judge(err error) (why Reason, kind error) {
	if room := (*noRoom)(nil); errors.As(err, &room) {
		return Full, ErrUnavailable
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return judgeCode(api.ErrorCode)
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted),
		errors.Is(err, jetstream.ErrMsgNotFound):
		return "", ErrNotFound
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jsapi.ErrTooMany):
		return "", ErrTooLarge
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrNoServers):
		return Unreachable, ErrUnavailable // refused by the client itself: nothing was sent
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrStaleConnection), errors.Is(err, io.EOF):
		return Unreachable, ErrUnclear // the connection was lost while waiting for the response
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return NoLeader, ErrUnavailable
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return Refused, ErrUnavailable
	case errors.Is(err, jetstream.ErrTooManyStalledMsgs):
		return NoAnswer, ErrUnavailable // never sent: the writes before it got no response
	case errors.Is(err, context.Canceled):
		return "", ErrUnclear // the caller gave up; that shows nothing about the store
	}
	return NoAnswer, ErrUnclear // time-outs above all
}

func judgeCode(code jetstream.ErrorCode) (why Reason, kind error) {
	switch code {
	case jetstream.JSErrCodeStreamWrongLastSequence:
		return "", ErrConflict
	case jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		// a write of the same subject is in flight on a cluster: neither success nor conflict
		return "", ErrUnclear
	case codeMessageTooLarge:
		return "", ErrTooLarge
	case jetstream.JSErrCodeMessageNotFound:
		return "", ErrNotFound
	case codeAccountFull, codeServerFull, codeStorageFull, codeStoreFailed:
		return Full, ErrUnavailable
	case codeNoPeers, codeUnavailable, codeNotLeader, codeConditionNotReady, codeStreamOffline, codeStreamOfflineWhy:
		return NoLeader, ErrUnavailable
	}
	return Refused, ErrUnavailable
}

// InTrouble reports whether an error comes from the state of the store and not from what was asked:
// the store cannot be used, or gave no clear response.
func InTrouble(err error) bool { return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnclear) }

// Level is the level at which one of many callers logs an error. Health reports trouble of the
// store itself, once for all of them.
func Level(err error, otherwise slog.Level) slog.Level {
	if InTrouble(err) {
		return slog.LevelDebug
	}
	return otherwise
}

// Passing reports whether a failure may end by waiting: the store cannot be reached, or has no
// leader or no room. A refusal of what was asked (a stream of that name with other contents, a
// permission) does not end that way.
func Passing(err error) bool {
	kind := classify(err)
	if !errors.Is(kind, ErrUnavailable) && !errors.Is(kind, ErrUnclear) {
		return false
	}
	why, _ := judge(err)
	return why != Refused
}
