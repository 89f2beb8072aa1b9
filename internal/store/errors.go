package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How reads and writes end when they do not succeed.
var (
	ErrNotFound    = errors.New("not found in the store")
	ErrConflict    = errors.New("the stored document or log is not at the expected place")
	ErrUnclear     = errors.New("the store gave no clear answer")
	ErrUnavailable = errors.New("the store cannot be used")
	ErrTooLarge    = errors.New("too large for the store")
)

// JetStream's error codes that nats.go has no name for.
const (
	codeMaximumBytes      = 10047 // insufficient resources
	codeMaximumMessages   = 10077
	codeMessageTooLarge   = 10054
	codeConditionInFlight = 10164 // a write of the same subject is in flight on a cluster: neither success nor conflict
)

// classify turns an error of the client library into one of ours; the library's own stays in the chain.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence:
			return fmt.Errorf("%w: %w", ErrConflict, err)
		case codeConditionInFlight:
			return fmt.Errorf("%w: %w", ErrUnclear, err)
		case codeMessageTooLarge:
			return fmt.Errorf("%w: %w", ErrTooLarge, err)
		case jetstream.JSErrCodeMessageNotFound:
			return fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted), errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrTooManyStalledMsgs):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	return fmt.Errorf("%w: %w", ErrUnclear, err) // time-outs and a lost connection above all
}

// Passing reports whether a failure may end by waiting: the store cannot be reached, has no leader or no room. A refusal of what was
// asked (a stream of that name with other contents, a permission) does not.
func Passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code >= 500
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnclear)
}
