package replay

import (
	"context"
	"testing"
	"testing/synctest"
)

// A client whose replays take long to load does not keep those of others from being loaded.
func TestAClientTakesPartOfTheLoads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoads()
		ctx, cancel := context.WithCancel(t.Context())
		taken := make(chan func(), 10)
		for range 10 {
			go func() {
				done, err := l.take(ctx, "large")
				if err != nil {
					done = nil
				}
				taken <- done
			}()
		}
		synctest.Wait()
		if n := len(taken); n != loadsOfClient {
			t.Errorf("%d replays of one client are loaded at once", n)
		}
		other, err := l.take(ctx, "small")
		if err != nil {
			t.Fatal(err)
		}
		other()
		(<-taken)()
		synctest.Wait()
		if n := len(taken); n != loadsOfClient {
			t.Errorf("%d slots are taken after one was returned", n)
		}
		cancel()
		synctest.Wait()
		for range 9 {
			if done := <-taken; done != nil {
				done()
			}
		}
		if len(l.all) != 0 || len(l.clients) != 0 {
			t.Errorf("%d slots and %d clients are left", len(l.all), len(l.clients))
		}
	})
}
