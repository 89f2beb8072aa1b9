package shard_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/shard/shardtest"
)

// TestAFailedPartIsBegunAgain: as long as a lease is held each part of its work is done, also one
// that has given up; the lease is known meanwhile, and no longer when all parts have ended.
func TestAFailedPartIsBegunAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun, drained := 0, false
		o := shard.NewOwned(slog.New(slog.DiscardHandler))
		parts := []shard.Part{
			{"gives up", func(context.Context, *shard.Lease) error {
				begun++
				return errors.New("out of luck")
			}},
			{"lasts", func(ctx context.Context, _ *shard.Lease) error {
				<-ctx.Done()
				drained = true
				return nil
			}},
		}
		connection := "leeds"
		lease := shardtest.NewManual(relay.ShardOf(connection), 9)
		// a second's rest after each failure
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Second/2)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			o.Work(ctx, lease.Lease, parts)
		}()
		synctest.Wait()
		if got, ok := o.Lease(connection); !ok || got.Epoch() != 9 {
			t.Error("the lease that is worked under is not known")
		}
		var things [relay.Shards]int
		things[lease.Shard()], things[(lease.Shard()+1)%relay.Shards] = 3, 4
		if own, all := o.Count(things); own != 3 || all != 7 {
			t.Errorf("counts %d of %d", own, all)
		}
		lease.Expire() // what is under way goes on
		if own, all := o.Count(things); own != 0 || all != 7 {
			t.Errorf("counts %d of %d once the lease is lost", own, all)
		}
		<-done
		if begun != 11 || !drained {
			t.Errorf("begun %d times, drained %v", begun, drained)
		}
		if _, ok := o.Lease(connection); ok {
			t.Error("a lease that was given up is still known")
		}
	})
}
