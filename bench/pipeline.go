package main

import "time"

const (
	steadyRate  = 50
	steadySites = 20
)

// pipeline is the vendor of a relay that polls it for several sites. begin starts the relay.
func (b *bench) pipeline() *fleet { return b.newFleet("RELAY_POLL_INTERVAL=100ms") }

func (f *fleet) begin(name string) *program {
	relay := f.start(name)
	f.connect(steadySites)
	f.subscribed(steadySites)
	return relay
}

// measureEndToEnd empties full queues of the vendor into a callback.
func (b *bench) measureEndToEnd() {
	f := b.pipeline()
	defer end(f.close)
	relay := f.begin("endtoend")
	b.callback(relay, "all", "ok/endtoend", "now", concurrency)
	before, _ := relay.usage()
	began := time.Now()
	for n := range b.sizes.endToEnd {
		f.happen(n, steadySites)
	}
	queued := time.Since(began)
	all := b.receiver.wait(b.ctx, b.sizes.endToEnd, 5*time.Minute, "ok/endtoend")
	cpu, peak := relay.usage()
	b.sayRate("end_to_end_events", float64(b.sizes.endToEnd)/all[0].Last.Sub(began).Seconds())
	say("end_to_end_queueing_seconds", "%.1f", queued.Seconds())
	say("end_to_end_cpu_seconds_per_1000_events", "%.3f", (cpu-before)*1000/float64(b.sizes.endToEnd))
	say("end_to_end_peak_memory_mib", "%.0f", peak)
}

// measureLatency lets fifty events a second happen and looks how long each takes from the log to
// the callback.
func (b *bench) measureLatency() {
	f := b.pipeline()
	defer end(f.close)
	relay := f.begin("latency")
	b.callback(relay, "all", "ok/latency", "now", 8)
	before, _ := relay.usage()
	f.steady(b.sizes.latency, steadySites, steadyRate)
	all := b.receiver.wait(b.ctx, b.sizes.latency, time.Minute, "ok/latency")
	cpu, peak := relay.usage()
	sayLatency("event_to_callback_at_50_per_second", all[0])
	say("at_50_per_second_cpu_seconds_per_1000_deliveries", "%.3f", (cpu-before)*1000/float64(b.sizes.latency))
	say("at_50_per_second_peak_memory_mib", "%.0f", peak)
}

func sayLatency(name string, s seen) {
	say(name+"_p50_ms", "%.2f", s.P50)
	say(name+"_p99_ms", "%.2f", s.P99)
	say(name+"_max_ms", "%.2f", s.Max)
}

// sayDifference prints by how much the 99th percentile is larger beside something else than alone: it may be by a
// tenth, or by so many milliseconds.
func sayDifference(name string, alone, beside seen, milliseconds float64) {
	difference, allowed := beside.P99-alone.P99, max(alone.P99*0.1, milliseconds)
	say(name+"_p99_difference_ms", "%.2f (at most %.2f: %s)", difference, allowed, verdict(difference <= allowed))
}

func sayRepeats(name string, all []seen, events int) {
	repeats := 0
	for _, s := range all {
		repeats += s.Count - events
	}
	say(name+"_repeats", "%d", repeats)
}

func verdict(ok bool) string {
	if ok {
		return "held"
	}
	return "not held"
}
