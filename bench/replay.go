package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// replayPatience is how long a replay may take.
const replayPatience = 10 * time.Minute

// measureReplay lets fifty events a second happen for a callback beside a replay of many deliveries that have failed.
// Before that and after it, as a relay that has run for longer has more memory and collects it less often, it lets them
// happen alone. The callback's p99 of new events may differ by a tenth.
func (b *bench) measureReplay() {
	const id, path, aside = "replay", "ok/replay", "ok/replay-alone"
	dir := filepath.Join(b.dir, id)
	must(b.start(dir).stop(syscall.SIGTERM)) // it has made the keys
	b.fill(dir, b.sizes.filled)
	f := b.pipeline()
	defer end(f.close)
	b.callback(f.begin(id), id, aside, "now", 8)
	must(f.stop())
	b.failAll(dir, id)

	relay := f.start(id)
	alone := 4 * b.sizes.latency
	f.steady(alone, steadySites, steadyRate)
	b.receiver.wait(b.ctx, alone, time.Minute, aside)
	sendTo := func(path string) {
		must(relay.put("/v1/callbacks/"+id, map[string]any{
			"url": b.receiver.base + "/" + path, "concurrency": 8, "timeoutSeconds": 5,
		}))
	}
	sendTo(path)
	before, _ := relay.usage()
	began := time.Now()
	made := relay.replay(id, map[string]any{"deliveryStatuses": []string{"failed"}})
	live := 0
	for ended := false; !ended; { // until the replay has ended
		f.steady(steadyRate, steadySites, steadyRate)
		live += steadyRate
		ended = relay.replayState(id, made.ID).State != "running" && live >= b.sizes.latency
		if time.Since(began) > replayPatience {
			must(fmt.Errorf("the replay has not ended after %s", replayPatience))
		}
	}
	beside := b.receiver.wait(b.ctx, live, time.Minute, path)[0]
	replayed := b.receiver.wait(b.ctx, b.sizes.filled, time.Minute, path+replayedSuffix)
	done := relay.replayState(id, made.ID)
	if done.Matched == nil || *done.Matched != b.sizes.filled {
		must(fmt.Errorf("the replay has not matched all of %d failed deliveries", b.sizes.filled))
	}
	cpu, peak := relay.usage()

	sendTo(aside)
	f.steady(alone, steadySites, steadyRate)
	quiet := b.receiver.wait(b.ctx, 2*alone, time.Minute, aside)[0]
	sayLatency("live_alone", quiet)
	sayLatency("live_beside_replay", beside)
	say("replay_deliveries", "%d (%d failed, %d repeats)", done.Delivered, done.Failed,
		replayed[0].Count-b.sizes.filled)
	say("replay_deliveries_per_second", "%.0f", span(replayed))
	say("replay_cpu_seconds_per_1000_deliveries", "%.3f", (cpu-before)*1000/float64(b.sizes.filled+live))
	say("replay_peak_memory_mib", "%.0f", peak)
	sayDifference("replay", quiet, beside, 0)
}

// failAll records that the filled events have failed at a callback.
func (b *bench) failAll(dir, id string) {
	s, closing := b.open(dir)
	defer closing()
	cb, _, err := s.Callbacks.Get(b.ctx, id)
	must(err)
	at := get(s.Attempts.End(b.ctx, id))
	for from, left := uint64(1), b.sizes.filled; left > 0; {
		events, _, err := s.Events.ScanHeads(b.ctx, from, []string{topology.AllEvents}, min(left, 1000))
		must(err)
		records := make([]relay.AttemptRecord, len(events))
		for i, ev := range events {
			records[i] = relay.AttemptRecord{
				Event: fmt.Sprint("filled-", ev.Seq), Seq: ev.Seq, Order: ev.Order, Site: ev.Site, Type: ev.Type,
				Number: 1, At: time.Now().UTC(), Outcome: "refused", Status: http.StatusInternalServerError,
				Closing: relay.DeliveryFailed,
			}
			from = ev.Seq + 1
		}
		left -= len(events)
		batch := at.Batch(id, cb.Generation, time.Now(), records)
		result := s.Attempts.AppendAll(b.ctx, []relay.AttemptBatch{batch})[0]
		must(result.Err)
		at = batch.End(result.Seq)
	}
}

// replayed is a replay as the API shows it.
type replayed struct {
	ID, State         string
	Matched           *int // nil until it is counted
	Delivered, Failed int
}

// replay makes one.
func (p *program) replay(callback string, selection map[string]any) (r replayed) {
	return p.replayCall(http.MethodPost, "/v1/callbacks/"+callback+"/replays", selection)
}

func (p *program) replayState(callback, id string) replayed {
	return p.replayCall(http.MethodGet, "/v1/callbacks/"+callback+"/replays/"+id, nil)
}

func (p *program) replayCall(method, path string, body any) (r replayed) {
	must(json.Unmarshal(get(p.call(method, path, body)).Body, &r))
	return r
}
