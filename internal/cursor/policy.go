package cursor

import "time"

// Bounds of what one cursor may come to, in memory and in the store.
const (
	// LaneEntries is how many waiting entries a lane lists by number; those after stand behind Lane.OpenFrom.
	// It bounds Take's max as well.
	LaneEntries = 100
	// DefaultMaxLanes is the number of lanes at which a cursor is congested, if the Policy names none.
	DefaultMaxLanes = 1000
	// DefaultWindow is the number of unsettled entries outside lanes that are held, if the Policy names none.
	DefaultWindow = 1024
	// MaxDone bounds Document.Done: 4,096 ranges of two 20-digit numbers are 176 KiB, so that a document stays below
	// MaxDocument. Ranges beyond it are left out of the stored document, which costs repeats after a crash, never a loss.
	MaxDone = 4096
	// MaxDocument is the size in bytes that an encoded Document never exceeds.
	MaxDocument = 256 << 10
	// MaxRetryAfter bounds a receiver's Retry-After hint.
	MaxRetryAfter = 24 * time.Hour

	// openWindow is how many unsettled entries outside lanes are held while the circuit is open. Not none: a receiver
	// that refuses only its oldest orders must be given the chance to take a new one. Not many: a thousand dead
	// receivers should cost nothing.
	openWindow = 16
	// MaxSkipped is how many entries may be settled out of turn, while earlier ones of their order wait. Document lists
	// them; with orders of up to 100 bytes they take 64 KiB of it.
	MaxSkipped = 500
	// maxReason keeps a lane's record small whatever the caller calls a reason.
	maxReason = 256
)

// Policy is what a reader wants of its cursor. The zero value of a field means its default.
type Policy struct {
	// Concurrency is how many orders may be in flight at once; 0 means 1.
	Concurrency int
	// Window is how many unsettled entries outside lanes are held; then Offer answers Full. 0 means DefaultWindow.
	Window int
	// MaxLanes is the number of lanes at which the cursor is congested. 0 means DefaultMaxLanes.
	MaxLanes int
	// Schedule holds the waits after the first, second, … failed attempt. After len(Schedule)+1 attempts an entry is
	// exhausted, unless Forever.
	Schedule []time.Duration
	// Forever repeats the schedule's last wait for ever: nothing is ever exhausted.
	Forever bool
	// Jitter returns the wait to use in place of the one given; nil uses it as it is.
	Jitter func(time.Duration) time.Duration
	// CircuitFailures is how many failures in a row, over more than one order, open the circuit; 0 means never.
	CircuitFailures int
	// ProbeSchedule holds the waits before the first, second, … probe; the last is repeated. Empty means 5 s, 5 m.
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

// wait is the time to the next attempt after the given number of failed ones (from 1); false says there is none.
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

// probeWait is the time to the next probe after the given number of failed ones (from 0).
func (p *Policy) probeWait(failed int, retryAfter time.Duration) time.Duration {
	return p.jittered(p.ProbeSchedule[min(failed, len(p.ProbeSchedule)-1)], retryAfter)
}

func (p *Policy) jittered(w, retryAfter time.Duration) time.Duration {
	if p.Jitter != nil {
		w = p.Jitter(w)
	}
	return max(w, min(retryAfter, MaxRetryAfter), 0)
}
