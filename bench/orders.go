package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// cachesEmpty is when a NATS server has let go of the blocks that it has written.
const cachesEmpty = 20 * time.Second

// measureOrders fills a log with events of as many orders and looks what the server keeps in memory
// for each: the index of subjects, by which the last event of an order is found.
func (b *bench) measureOrders() (err error) {
	dir := filepath.Join(b.dir, "orders")
	s, closing, err := open(b.ctx, dir)
	if err != nil {
		return err
	}
	defer func() {
		closing()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	before, n := heap(), b.sizes.orders
	const writers = 16
	var writing sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		writing.Go(func() {
			for i := w; i < n; i += writers {
				ev, err := event(fmt.Sprintf("site-%d", i%1000), i, i)
				if err == nil {
					_, err = s.Events.Publish(b.ctx, ev, store.InboxRef{}, 0)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	writing.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return err
	}
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(cachesEmpty):
	}
	say("log_orders", "%d", n)
	say("log_memory_bytes_per_order", "%.0f", (heap()-before)/float64(n))
	return nil
}

// heap returns the bytes in use of this process, in which the server runs.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
