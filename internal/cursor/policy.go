package cursor

import (
	"slices"
	"time"
)

// The bounds of one cursor, in memory and in the store.
const (
	// LaneEntries is how many waiting entries a lane lists; Lane.OpenFrom stands for the others. It
	// also bounds the size of a batch.
	LaneEntries = 100
	// DefaultMaxLanes is the number of lanes at which a cursor is congested, unless the Policy has
	// another.
	DefaultMaxLanes = 1000
	// DefaultWindow is the number of unsettled entries that are held outside lanes, unless the
	// Policy has another.
	DefaultWindow = 1024
	// MaxDone bounds Document.Done. 4,096 ranges of two 20-digit numbers take 176 KiB, so that a
	// document stays below MaxDocument. Further ranges are not stored; after a crash their entries
	// may be repeated, but none is lost.
	MaxDone = 4096
	// MaxDocument is the size in bytes that an encoded Document never exceeds.
	MaxDocument = 256 << 10
	// MaxRetryAfter bounds a receiver's Retry-After hint.
	MaxRetryAfter = 24 * time.Hour

	// openWindow is how many unsettled entries outside lanes are held while the circuit is open. It
	// is not zero, because a receiver that refuses only its oldest orders must get a new one. It is
	// small, because a thousand dead receivers must cost almost nothing.
	openWindow = 16
	// MaxSkipped is how many entries may be settled out of order, while earlier ones of their order
	// wait. The Document lists them; with orders of up to 100 bytes they take 64 KiB.
	MaxSkipped = 500
	// maxReason bounds a reason, so that a lane's record stays small.
	maxReason = 256
)

// Policy configures a cursor. The zero value of a field means its default.
type Policy struct {
	// Concurrency is how many orders may be in flight at once; 0 means 1.
	Concurrency int
	// Window is how many unsettled entries outside lanes are held before Offer returns Full. 0
	// means DefaultWindow.
	Window int
	// MaxLanes is the number of lanes at which the cursor is congested. 0 means DefaultMaxLanes.
	MaxLanes int
	// Schedule holds the waits after the first, second, … failed attempt. After len(Schedule)+1
	// attempts an entry is exhausted, unless Forever is set.
	Schedule []time.Duration
	// Forever repeats the schedule's last wait forever: nothing is ever exhausted.
	Forever bool
	// Jitter returns the wait to use instead of the given one; nil leaves waits as they are.
	Jitter func(time.Duration) time.Duration
	// CircuitFailures is how many failures in a row, over more than one order, open the circuit; 0
	// means never.
	CircuitFailures int
	// ProbeSchedule holds the waits before the first, second, … probe; the last one is repeated.
	// Empty means 5 s, 5 m.
	ProbeSchedule []time.Duration
}

var (
	defaultProbes  = []time.Duration{5 * time.Second, 5 * time.Minute}
	defaultForever = 5 * time.Second // Forever without a schedule
)

func (p Policy) withDefaults() Policy {
	p.Concurrency = max(p.Concurrency, 1)
	if p.Window <= 0 {
		p.Window = DefaultWindow
	}
	if p.MaxLanes <= 0 {
		p.MaxLanes = DefaultMaxLanes
	}
	if len(p.ProbeSchedule) == 0 {
		p.ProbeSchedule = defaultProbes
	}
	return p
}

// wait returns the time to the next attempt after the given number of failed ones (from 1), and
// false if there is none.
func (p *Policy) wait(failed int, retryAfter time.Duration) (time.Duration, bool) {
	var w time.Duration
	switch n := len(p.Schedule); {
	case failed <= n:
		w = p.Schedule[failed-1]
	case !p.Forever:
		return 0, false
	case n > 0:
		w = p.Schedule[n-1]
	default:
		w = defaultForever
	}
	return p.jittered(w, retryAfter), true
}

// probeWait returns the time to the next probe after the given number of failed ones (from 0).
func (p *Policy) probeWait(failed int, retryAfter time.Duration) time.Duration {
	return p.jittered(p.ProbeSchedule[min(failed, len(p.ProbeSchedule)-1)], retryAfter)
}

func (p *Policy) jittered(w, retryAfter time.Duration) time.Duration {
	if p.Jitter != nil {
		w = p.Jitter(w)
	}
	return max(w, min(retryAfter, MaxRetryAfter), 0)
}

// Probes returns the waits before probes that go with a schedule of retries: its first ones, as long as they are
// shorter than every, and then every.
func Probes(retries []time.Duration, every time.Duration) []time.Duration {
	n := slices.IndexFunc(retries, func(d time.Duration) bool { return d >= every })
	if n < 0 {
		n = len(retries)
	}
	return append(slices.Clone(retries[:n]), every)
}
