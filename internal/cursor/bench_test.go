package cursor

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// BenchmarkSteady is one entry offered, taken and settled, with others in flight and a document
// every thousand.
func BenchmarkSteady(b *testing.B) {
	c := New(Policy{Concurrency: 32, CircuitFailures: 5})
	orders := make([]string, 5000)
	for i := range orders {
		orders[i] = fmt.Sprintf("5f0c8a9e-0000-4000-8000-%012d", i)
	}
	flying := make([]Batch, 0, 32)
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ {
		if c.Offer(Entry{seq, orders[seq%5000]}) != Accepted {
			b.Fatal("refused")
		}
		if batch, ok := c.Take(t0, 1); ok {
			flying = append(flying, batch)
		}
		if len(flying) == cap(flying) {
			i := int(seq) % len(flying)
			c.Succeed(flying[i], t0)
			flying[i] = flying[len(flying)-1]
			flying = flying[:len(flying)-1]
		}
		if seq%1000 == 0 {
			c.Stored(c.Changes())
		}
	}
}

// BenchmarkTakeAmongLanes is an attempt that fails with a thousand lanes waiting.
func BenchmarkTakeAmongLanes(b *testing.B) {
	c := withLanes(b, 1000)
	now := t0
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Second)
		batch, ok := c.Take(now, 1)
		if !ok {
			b.Fatal("nothing due")
		}
		c.Fail(batch, now, Failure{Reason: "503"})
	}
}

// BenchmarkChanges is what storing costs in this package and its encoding: a thousand lanes on each
// of a hundred cursors, all of them changed, and then the usual case of ten.
func BenchmarkChanges(b *testing.B) {
	for _, changed := range []int{1000, 10} {
		b.Run(fmt.Sprint("changed=", changed), func(b *testing.B) {
			cs := make([]*Cursor, 100)
			for i := range cs {
				cs[i] = withLanes(b, 1000)
				cs[i].Stored(cs[i].Changes())
			}
			var lanes, bytes int
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				c := cs[n%len(cs)]
				b.StopTimer()
				for i := range changed {
					c.Retry(fmt.Sprintf("5f0c8a9e-0000-4000-8000-%012d", i), t0)
				}
				c.SetCarried(Carried{Epoch: uint64(n + 1)})
				b.StartTimer()
				ch := c.Changes()
				for _, l := range ch.Lanes {
					enc, err := json.Marshal(l)
					if err != nil {
						b.Fatal(err)
					}
					bytes += len(enc)
				}
				enc, err := json.Marshal(ch.Document)
				if err != nil {
					b.Fatal(err)
				}
				bytes += len(enc)
				lanes += len(ch.Lanes)
				c.Stored(ch)
			}
			b.ReportMetric(float64(lanes)/float64(b.N), "lanes/op")
			b.ReportMetric(float64(bytes)/float64(b.N), "bytes/op")
		})
	}
}

// withLanes returns a cursor with n lanes of three entries each.
func withLanes(b *testing.B, n int) *Cursor {
	b.Helper()
	c := New(Policy{Concurrency: n, Window: 4 * n, Schedule: []time.Duration{time.Second}, Forever: true})
	seq := uint64(1_000_000)
	var batches []Batch
	for range 3 {
		for i := range n {
			seq += 7
			if v := c.Offer(Entry{seq, fmt.Sprintf("5f0c8a9e-0000-4000-8000-%012d", i)}); v != Accepted {
				b.Fatal(v)
			}
		}
	}
	for range n {
		batch, _ := c.Take(t0, 1)
		batches = append(batches, batch)
	}
	for _, batch := range batches {
		c.Fail(batch, t0, Failure{Reason: "status-503"})
	}
	if c.Lanes() != n {
		b.Fatalf("%d lanes", c.Lanes())
	}
	return c
}
