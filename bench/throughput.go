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
func (b *bench) measureCeiling() error {
	ev, err := event("site-0", 1, 1)
	if err != nil {
		return err
	}
	body, err := relay.Encode(ev)
	if err != nil {
		return err
	}
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
				req, _ := http.NewRequestWithContext(b.ctx, http.MethodPost, b.receiver.base+"/ok/ceiling", bytes.NewReader(body))
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
		return fmt.Errorf("%d posts failed", failed.Load())
	}
	b.ceiling = float64(b.sizes.ceiling) / time.Since(began).Seconds()
	say("ceiling_posts_per_second", "%.0f", b.ceiling)
	say("event_bytes", "%d", len(body))
	return nil
}

// measureThroughput delivers a filled log to one callback, and another one to a hundred, each as
// fast as it goes.
func (b *bench) measureThroughput() error {
	if err := b.throughput("one_callback", filepath.Join(b.dir, "filled"), b.sizes.filled, 1, concurrency); err != nil {
		return err
	}
	return b.throughput(fmt.Sprintf("%d_callbacks", b.sizes.callbacks), filepath.Join(b.dir, "fanout"), b.sizes.fanOut, b.sizes.callbacks, 4)
}

func (b *bench) throughput(name, dir string, events, callbacks, each int) error {
	began := time.Now()
	if err := fill(b.ctx, dir, events); err != nil {
		return fmt.Errorf("fill the log: %w", err)
	}
	say(name+"_log_filled_events_per_second", "%.0f", float64(events)/time.Since(began).Seconds())
	p, err := b.start(dir)
	if err != nil {
		return err
	}
	cpuBefore, _, err := p.usage()
	if err != nil {
		return err
	}
	var paths []string
	for i := range callbacks {
		id := fmt.Sprintf("%s-%d", "cb", i)
		path := "ok/" + name + "-" + id
		paths = append(paths, path)
		if err := b.callback(p, id, path, "earliest", each); err != nil {
			return err
		}
	}
	all, err := b.receiver.wait(b.ctx, events, 10*time.Minute, paths...)
	if err != nil {
		return err
	}
	cpu, peak, err := p.usage()
	if err != nil {
		return err
	}
	b.sayRate(name+"_deliveries", span(all))
	repeats := 0
	for _, s := range all {
		repeats += s.Count - events
	}
	say(name+"_repeats", "%d", repeats)
	say(name+"_cpu_seconds_per_1000_deliveries", "%.3f", (cpu-cpuBefore)*1000/float64(events*callbacks))
	say(name+"_peak_memory_mib", "%.0f", peak)
	return p.stop(syscall.SIGTERM)
}

// measureRestart starts the relay on the log that throughput filled: after a proper stop and after
// a kill.
func (b *bench) measureRestart() error {
	dir := filepath.Join(b.dir, "filled")
	if err := fillOnce(b.ctx, dir, b.sizes.filled); err != nil {
		return err
	}
	for _, how := range []struct {
		name   string
		signal syscall.Signal
	}{{"stop", syscall.SIGTERM}, {"kill", syscall.SIGKILL}} {
		p, err := b.start(dir)
		if err != nil {
			return err
		}
		if err := p.stop(how.signal); err != nil {
			return err
		}
		if p, err = b.start(dir); err != nil {
			return err
		}
		say(fmt.Sprintf("ready_after_%s_with_%d_events_seconds", how.name, b.sizes.filled), "%.2f", p.ready.Seconds())
		if err := p.stop(syscall.SIGTERM); err != nil {
			return err
		}
	}
	return nil
}
