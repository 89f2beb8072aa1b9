package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// cachesEmpty is when a NATS server has let go of the blocks that it has written.
const cachesEmpty = 20 * time.Second

// measureOrders fills a log with events of as many orders and looks what the server keeps in memory
// for each: the index of subjects, by which the last event of an order is found.
func (b *bench) measureOrders() {
	dir := filepath.Join(b.dir, "orders")
	defer end(func() error { return os.RemoveAll(dir) })
	s, closing := b.open(dir)
	defer closing()
	before, n := heap(), b.sizes.orders
	must(spread(16, n, func(_, i int) error {
		ev, err := event(fmt.Sprintf("site-%d", i%1000), i, i)
		if err == nil {
			_, err = s.Events.Publish(b.ctx, ev, store.InboxRef{}, 0)
		}
		return err
	}))
	b.pass(cachesEmpty)
	say("log_orders", "%d", n)
	say("log_memory_bytes_per_order", "%.0f", (heap()-before)/float64(n))
}

// heap returns the bytes in use of this process, in which the server runs.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
