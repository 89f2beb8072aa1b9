package natsd_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/natstest"
)

// The limit of NATS's messages is looked at when the relay starts, and again when the connection is made again.
func TestTheLimitOfMessagesIsLookedAt(t *testing.T) {
	t.Parallel()
	server := natstest.StartLimited(t, 1<<20)
	var told bytes.Buffer
	check, again := natsd.WatchPayload(512<<10, natsd.MaxPayload, slog.New(slog.NewTextHandler(&told, nil)))
	lines := func(want int, level string) {
		t.Helper()
		if n := strings.Count(told.String(), "\n"); n != want || want > 0 &&
			(!strings.Contains(told.String(), "level="+level) || !strings.Contains(told.String(), "max_payload: 8MB")) {
			t.Errorf("%d lines, want %d: %s", n, want, told.String())
		}
		told.Reset()
	}
	if err := check(server.Conn()); err != nil {
		t.Error(err)
	}
	lines(1, "WARN")
	again(server.Conn()) // the same again
	lines(0, "")

	server.Restart(100_000)
	if err := check(server.Conn()); err == nil || !strings.Contains(err.Error(), "100000") ||
		!strings.Contains(err.Error(), "max_payload: 8MB") {
		t.Errorf("too low a limit: %v", err)
	}
	again(server.Conn())
	again(server.Conn())
	lines(1, "ERROR")

	server.Restart(8 << 20)
	if err := check(server.Conn()); err != nil {
		t.Error(err)
	}
	lines(0, "")
}
