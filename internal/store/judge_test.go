package store

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// What each error of the client library and of JetStream is mapped to. outage_test.go has the real
// ones that a test can cause.
func TestWhatAnErrorComesTo(t *testing.T) {
	t.Parallel()
	code := func(c int) error { return &jetstream.APIError{Code: 503, ErrorCode: jetstream.ErrorCode(c)} }
	for _, tt := range []struct {
		name string
		err  error
		kind error
		why  Reason
	}{
		{"another revision", code(10071), ErrConflict, ""},
		{"in flight", code(10164), ErrUnclear, ""},
		{"no such message", code(10037), ErrNotFound, ""},
		{"no such key", jetstream.ErrKeyNotFound, ErrNotFound, ""},
		{"a removed key", jetstream.ErrKeyDeleted, ErrNotFound, ""},
		{"too large for the server", nats.ErrMaxPayload, ErrTooLarge, ""},
		{"too large for the stream", code(10054), ErrTooLarge, ""},
		{"more subjects than one request finds", jsapi.ErrTooMany, ErrTooLarge, ""},
		{"given up", context.Canceled, ErrUnclear, ""},
		{"the account is full", code(10002), ErrUnavailable, Full},
		{"the server is full", code(10023), ErrUnavailable, Full},
		{"the storage is full", code(10047), ErrUnavailable, Full},
		{"the stream is full", code(10077), ErrUnavailable, Full},
		{"the disk is full", &noRoom{"no space"}, ErrUnavailable, Full},
		{"too few servers to place a stream", code(10005), ErrUnavailable, NoLeader},
		{"no leader of the cluster", code(10008), ErrUnavailable, NoLeader},
		{"not the leader", code(10009), ErrUnavailable, NoLeader},
		{"the stream is offline", code(10118), ErrUnavailable, NoLeader},
		{"a leader just elected", code(10163), ErrUnavailable, NoLeader},
		{"nobody answers for the stream", jetstream.ErrNoStreamResponse, ErrUnavailable, NoLeader},
		{"nobody answers", nats.ErrNoResponders, ErrUnavailable, NoLeader},
		{"no answer in time", context.DeadlineExceeded, ErrUnclear, NoAnswer},
		{"no answer in the library's time", nats.ErrTimeout, ErrUnclear, NoAnswer},
		{"too many without an answer", jetstream.ErrTooManyStalledMsgs, ErrUnavailable, NoAnswer},
		{"nothing is buffered", nats.ErrReconnectBufExceeded, ErrUnavailable, Unreachable},
		{"closed", nats.ErrConnectionClosed, ErrUnavailable, Unreachable},
		{"reconnecting", nats.ErrConnectionReconnecting, ErrUnavailable, Unreachable},
		{"cut off while waiting", nats.ErrDisconnected, ErrUnclear, Unreachable},
		{"JetStream is off", code(10076), ErrUnavailable, Refused},
		{"JetStream is off for the account", code(10039), ErrUnavailable, Refused},
		{"anything else", code(10052), ErrUnavailable, Refused},
	} {
		wrapped := fmt.Errorf("write x: %w", tt.err)
		if why, kind := judge(wrapped); !errors.Is(kind, tt.kind) || why != tt.why {
			t.Errorf("%s: %v, %q; want %v, %q", tt.name, kind, why, tt.kind, tt.why)
		}
		ours := classify(wrapped)
		if !errors.Is(ours, tt.kind) || !errors.Is(ours, tt.err) {
			t.Errorf("%s becomes %v", tt.name, ours)
		}
		if why, kind := judge(ours); !errors.Is(kind, tt.kind) || why != tt.why {
			t.Errorf("%s, told once more: %v, %q", tt.name, kind, why)
		}
	}
}
