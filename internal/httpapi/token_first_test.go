package httpapi

import (
	"context"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// TestATokenIsThereBeforeItsConnectionIsSeen: the poller polls a connection at once when it sees
// it, and would wait a whole interval if the token came a moment later.
func TestATokenIsThereBeforeItsConnectionIsSeen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, ready, done := make(chan string, 8), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = f.store.Connections.Watch(ctx, func(e store.Entry[relay.Connection]) {
			record, _, err := f.store.Tokens.Token(ctx, e.Key)
			if err != nil || record.Generation != e.Value.Generation {
				seen <- "none"
				return
			}
			seen <- record.RefreshToken.Reveal()
		}, func() { close(ready) }, func(_ string, err error) { t.Error(err) })
	}()
	<-ready
	op := f.admin()
	for i, token := range []string{"one", "two", "three"} {
		settings := map[string]any{"level": "site", "site": "alpha", "refreshToken": token}
		if i < 2 {
			op.put("/v1/connections/con-a", settings).want([]int{201, 200}[i])
		} else {
			op.patch("/v1/connections/con-a", map[string]any{"refreshToken": token}).want(200)
		}
		if got := <-seen; got != token {
			t.Errorf("when the connection was seen its token was %q, not %q", got, token)
		}
	}
	cancel()
	<-done
}
