package gather

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Who comes within a moment, or while a batch is worked on, is in one batch; the work begins after all of it has come.
func TestOneWorksForAllThatComeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		free := make(chan struct{})
		g := New(func(_ context.Context, batch []int) {
			batches = append(batches, batch)
			<-free
		})
		for n := range 3 {
			go g.Add(t.Context(), n)
			synctest.Wait()
		}
		<-time.After(window)
		synctest.Wait()
		for n := range 64 {
			go g.Add(t.Context(), 3+n)
			synctest.Wait()
			<-time.After(time.Second)
		}
		close(free)
		synctest.Wait()
		if len(batches) != 2 || !slices.Equal(batches[0], []int{0, 1, 2}) || len(batches[1]) != 64 {
			t.Errorf("the batches were %v", batches)
		}
	})
}

// Who follows one that has ended may be waiting too: no batch has both.
func TestWhatHasEndedIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][]string
		g := New(func(_ context.Context, batch []string) { batches = append(batches, batch) })
		ctx, end := context.WithCancel(t.Context())
		go g.Add(ctx, "before")
		synctest.Wait()
		g.Add(t.Context(), "other")
		end()
		g.Add(t.Context(), "after")
		<-time.After(window)
		synctest.Wait()
		if len(batches) != 1 || !slices.Equal(batches[0], []string{"other", "after"}) {
			t.Errorf("the batches were %q", batches)
		}
		g.Add(ctx, "ended")
		if len(batches) != 1 {
			t.Errorf("the batches were %q", batches)
		}
	})
}

// What others wait for does not end with the caller that works for them; when nobody waits any more, it ends.
func TestTheWorkEndsWithTheLastCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewReader(func(ctx context.Context, _ []int) (map[int]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		var ended atomic.Int32
		var ends []context.CancelFunc
		for n := range 3 {
			ctx, end := context.WithCancel(t.Context())
			ends = append(ends, end)
			go func() {
				if _, err := r.Read(ctx, n); !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", n, err)
				}
				ended.Add(1)
			}()
			synctest.Wait()
		}
		<-time.After(window)
		for n, want := range []int32{0, 1, 3} { // the first works for all of them
			ends[n]()
			synctest.Wait()
			if got := ended.Load(); got != want {
				t.Errorf("when %d had ended, %d had returned, not %d", n+1, got, want)
			}
		}
	})
}

func TestAReaderReadsOnceForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads [][]int
		failing := errors.New("the store is away")
		r := NewReader(func(_ context.Context, keys []int) (map[int]int, error) {
			reads = append(reads, keys)
			if len(reads) > 1 {
				return nil, failing
			}
			return maps.Collect(func(yield func(int, int) bool) {
				for _, key := range keys {
					if !yield(key, 10*key) {
						return
					}
				}
			}), nil
		})
		for n := range 8 {
			go func() {
				if got, err := r.Read(t.Context(), n/2); err != nil || got != 10*(n/2) {
					t.Errorf("%d: %d, %v", n/2, got, err)
				}
			}()
		}
		<-time.After(window)
		synctest.Wait()
		if len(reads) != 1 || len(reads[0]) != 4 {
			t.Errorf("read were %v", reads)
		}
		if _, err := r.Read(t.Context(), 1); !errors.Is(err, failing) {
			t.Errorf("the second reading: %v", err)
		}
	})
}
