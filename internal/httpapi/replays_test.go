package httpapi

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// slowCounts counts for the client "large" until it may not go on, and for others at once.
type slowCounts struct{}

func (slowCounts) Count(ctx context.Context, of relay.Replay, _ relay.Callback, _ relay.Client) (int, error) {
	if of.Client != "large" {
		return 7, nil
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// The dry runs of a client that take long leave room for those of others.
func TestReplayCountsOfAClientLeaveRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &API{
			c: Config{Replays: slowCounts{}}, counts: make(chan struct{}, countsAtOnce),
			counting: newTurns(countsOfClient),
		}
		count := func(client string) (int, error) {
			return a.count(t.Context(), relay.Replay{Client: client}, relay.Callback{}, relay.Client{}, countPatience)
		}
		failed := make(chan error, 10)
		for range cap(failed) {
			go func() {
				_, err := count("large")
				failed <- err
			}()
		}
		synctest.Wait()
		began := time.Now()
		if n, err := count("small"); n != 7 || err != nil || time.Since(began) > 0 {
			t.Errorf("counted %d, %v, after %s", n, err, time.Since(began))
		}
		for range cap(failed) {
			if err := <-failed; !errors.Is(err, errCounting) {
				t.Errorf("a long count ended with %v", err)
			}
		}
		if len(a.counts) != 0 || len(a.counting.keys) != 0 {
			t.Errorf("%d places and %d clients are left", len(a.counts), len(a.counting.keys))
		}
	})
}
