package dispatcher_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// BenchmarkDeliveries empties a filled log into callbacks whose receiver responds at once, in this process: what is
// left is the dispatcher's own cost, the store's and HTTP's.
func BenchmarkDeliveries(b *testing.B) {
	for _, callbacks := range []int{1, 100} {
		b.Run(fmt.Sprintf("callbacks=%d", callbacks), func(b *testing.B) {
			bench := newBench(b)
			var taken atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				taken.Add(1)
			}))
			defer server.Close()
			for i := range callbacks {
				cb := callback(fmt.Sprintf("bms-%d", i), server.URL)
				if cb.Concurrency = 64; callbacks > 1 {
					cb.Concurrency = relay.DefaultConcurrency
				}
				bench.register(cb)
			}
			bench.fill(b.N/callbacks + 1)
			want := int64((b.N/callbacks + 1) * callbacks)
			before := cpu()
			b.ResetTimer()
			d := bench.start()
			until(b, "all arrive", func() bool { return taken.Load() >= want })
			d.stop()
			b.StopTimer()
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(want), "cpu-µs/delivery")
			b.ReportMetric(float64(want)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkLatency measures an event's way from the log's acknowledgement to its receiver at 50 events a second.
func BenchmarkLatency(b *testing.B) {
	bench := newBench(b)
	arrived := make(chan time.Time, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- time.Now()
	}))
	defer server.Close()
	bench.register(callback("bms", server.URL))
	bench.start()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var took []time.Duration
	for i := range b.N {
		<-tick.C
		at := time.Now()
		bench.publish("leeds", i%1000)
		took = append(took, (<-arrived).Sub(at))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// cpu returns the CPU time of this process, which means more than the clock on a busy machine.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fill puts n events of many orders into the log.
func (b *bench) fill(n int) {
	padding := make([]byte, 1200)
	for i := range padding {
		padding[i] = 'x'
	}
	for i := range n {
		ev, err := relay.NewOrderEvent("https://relay.test", "leeds", order(i), relay.TypeOrderCreated, 1,
			time.Now(), relay.OrderData{
				Order: []byte(fmt.Sprintf(`{"Note":%q}`, padding)),
			})
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.store.Events.Publish(context.Background(), ev, store.InboxRef{}, 0); err != nil {
			b.t.Fatal(err)
		}
	}
}
