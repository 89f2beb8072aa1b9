package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signature"
)

const concurrency = 64

// measureCeiling posts the same signed body with plain net/http: what this machine can do without
// any of the relay's work.
func (b *bench) measureCeiling() {
	ev := get(event("site-0", 1, 1))
	body := get(relay.Encode(ev))
	secret := signature.NewSecret()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
	defer client.CloseIdleConnections()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range concurrency {
		wg.Go(func() {
			for next.Add(1) <= int64(b.sizes.ceiling) {
				now := time.Now()
				req, _ := http.NewRequestWithContext(b.ctx, http.MethodPost,
					b.receiver.base+"/ok/ceiling", bytes.NewReader(body))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Webhook-Id", ev.ID)
				req.Header.Set("Webhook-Timestamp", fmt.Sprint(now.Unix()))
				req.Header.Set("Webhook-Signature", signature.Sign([]signature.Secret{secret}, ev.ID, now, body))
				answer, err := client.Do(req)
				if err != nil {
					failed.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				_ = answer.Body.Close()
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		must(fmt.Errorf("%d posts failed", failed.Load()))
	}
	b.ceiling = float64(b.sizes.ceiling) / time.Since(began).Seconds()
	say("ceiling_posts_per_second", "%.0f", b.ceiling)
	say("event_bytes", "%d", len(body))
}

// measureThroughput delivers a filled log to one callback, and another one to a hundred, each as
// fast as it goes.
func (b *bench) measureThroughput() {
	b.throughput("one_callback", "filled", b.sizes.filled, 1, concurrency)
	b.throughput(fmt.Sprintf("%d_callbacks", b.sizes.callbacks), "fanout", b.sizes.fanOut, b.sizes.callbacks, 4)
}

func (b *bench) throughput(name, directory string, events, callbacks, each int) {
	began, dir := time.Now(), filepath.Join(b.dir, directory)
	b.fill(dir, events)
	say(name+"_log_filled_events_per_second", "%.0f", float64(events)/time.Since(began).Seconds())
	p := b.start(dir)
	defer end(func() error { return p.stop(syscall.SIGTERM) })
	before, _ := p.usage()
	var paths []string
	for i := range callbacks {
		path := fmt.Sprintf("ok/%s-cb-%d", name, i)
		paths = append(paths, path)
		b.callback(p, fmt.Sprintf("cb-%d", i), path, "earliest", each)
	}
	all := b.receiver.wait(b.ctx, events, 10*time.Minute, paths...)
	cpu, peak := p.usage()
	b.sayRate(name+"_deliveries", span(all))
	sayRepeats(name, all, events)
	say(name+"_cpu_seconds_per_1000_deliveries", "%.3f", (cpu-before)*1000/float64(events*callbacks))
	say(name+"_peak_memory_mib", "%.0f", peak)
}

// measureRestart starts the relay on the log that throughput filled: after a proper stop and after
// a kill.
func (b *bench) measureRestart() {
	dir := filepath.Join(b.dir, "filled")
	b.fillOnce(dir, b.sizes.filled)
	for _, how := range []struct {
		name   string
		signal syscall.Signal
	}{{"stop", syscall.SIGTERM}, {"kill", syscall.SIGKILL}} {
		must(b.start(dir).stop(how.signal))
		p := b.start(dir)
		say(fmt.Sprintf("ready_after_%s_with_%d_events_seconds", how.name, b.sizes.filled), "%.2f", p.ready.Seconds())
		must(p.stop(syscall.SIGTERM))
	}
}
