package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Faults says what goes wrong, and how often. Shares are between 0 and 1; the
// first five exclude one another, so their sum is at most 1; latency comes on
// top of any of them.
type Faults struct {
	// Share500, Share429 and Share503 are refused with that status before the
	// request did anything.
	Share500 float64
	Share429 float64
	Share503 float64
	// ShareCut has its connection closed before the request did anything.
	ShareCut float64
	// ShareCutAfterRead is carried out in full, but its answer is cut: half of
	// them before the first byte, half in the middle of the body. A poll's page
	// is gone, a refresh token is spent.
	ShareCutAfterRead float64
	// ShareLatency waits for Latency before anything else. A caller who gives up
	// meanwhile is not noticed: the request is carried out all the same.
	ShareLatency float64
	Latency      time.Duration
	// RetryAfter goes with 429 and 503, rounded up to seconds; a hostile sandbox
	// writes it as an HTTP date now and then. 0 sends no Retry-After.
	RetryAfter time.Duration
	// Operations and Paths (prefixes of the URL path) choose what is hit: a
	// request that is any of them. Both empty: the API, but neither consent nor
	// tokens, as a cut token answer costs a consent and has to be asked for.
	Operations []Operation
	Paths      []string
}

func (f Faults) validate() error {
	sum := 0.0
	for _, share := range []struct {
		name  string
		value float64
	}{
		{"share500", f.Share500},
		{"share429", f.Share429},
		{"share503", f.Share503},
		{"shareCut", f.ShareCut},
		{"shareCutAfterRead", f.ShareCutAfterRead},
	} {
		if !(share.value >= 0 && share.value <= 1) { // written so that NaN fails
			return fmt.Errorf("%s is %v: a share is between 0 and 1", share.name, share.value)
		}
		sum += share.value
	}
	if sum > 1.000001 { // ten times 0.1 is allowed to be a whole
		return fmt.Errorf("the shares of 500, 429, 503, cut and cut after read add up to %v: at most 1", sum)
	}
	if !(f.ShareLatency >= 0 && f.ShareLatency <= 1) {
		return fmt.Errorf("shareLatency is %v: a share is between 0 and 1", f.ShareLatency)
	}
	if f.Latency < 0 || f.RetryAfter < 0 {
		return errors.New("latency and retryAfter cannot be negative")
	}
	for _, op := range f.Operations {
		if !slices.Contains(operations, op) {
			return fmt.Errorf("operation %q is none of %v", op, operations)
		}
	}
	return nil
}

func (f Faults) hits(op Operation, path string) bool {
	if len(f.Operations) == 0 && len(f.Paths) == 0 {
		return strings.HasPrefix(path, APIPath+"/") || path == UsersMePath
	}
	if slices.Contains(f.Operations, op) {
		return true
	}
	return slices.ContainsFunc(f.Paths, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// SetFaults replaces all faults; without arguments everything works again. Of
// several, the first that chooses a request decides about it. It changes
// nothing and returns an error if a share is not between 0 and 1, the exclusive
// shares add up to more than 1, or an operation does not exist.
func (s *Sandbox) SetFaults(faults ...Faults) error {
	for i, f := range faults {
		if err := f.validate(); err != nil {
			return fmt.Errorf("setting fault %d of %d: %w", i+1, len(faults), err)
		}
	}
	faults = slices.Clone(faults)
	for i := range faults {
		faults[i].Operations = slices.Clone(faults[i].Operations)
		faults[i].Paths = slices.Clone(faults[i].Paths)
	}
	s.faults.Store(&faults)
	return nil
}

// Faults returns what SetFaults was last given.
func (s *Sandbox) Faults() []Faults { return slices.Clone(*s.faults.Load()) }

// fate is what was drawn for one request.
type fate struct {
	kind       fateKind
	wait       time.Duration
	retryAfter string // header value, "" for none
	middle     bool   // a cut answer ends in the middle of its body
}

type fateKind string

const (
	fateNone     fateKind = ""
	fate500      fateKind = "500"
	fate429      fateKind = "429"
	fate503      fateKind = "503"
	fateCut      fateKind = "cut"
	fateCutAfter fateKind = "cutAfterRead"
	fateLatency  fateKind = "latency" // counted only, comes with any other
)

func (s *Sandbox) draw(op Operation, path string) fate {
	faults := *s.faults.Load()
	i := slices.IndexFunc(faults, func(f Faults) bool { return f.hits(op, path) })
	if i < 0 {
		return fate{}
	}
	f, d := faults[i], s.dice("fate", s.fates.Add(1))
	late, which := d.Float64(), d.Float64()
	out := fate{middle: d.oneIn(2)}
	if late < f.ShareLatency {
		out.wait = f.Latency
	}
	for _, c := range []struct {
		kind  fateKind
		share float64
	}{
		{fate500, f.Share500},
		{fate429, f.Share429},
		{fate503, f.Share503},
		{fateCut, f.ShareCut},
		{fateCutAfter, f.ShareCutAfterRead},
	} {
		if which < c.share {
			out.kind = c.kind
			break
		}
		which -= c.share
	}
	if f.RetryAfter > 0 && (out.kind == fate429 || out.kind == fate503) {
		out.retryAfter = s.retryAfter(f.RetryAfter, !s.cfg.Tame && d.oneIn(4))
	}
	return out
}

func (s *Sandbox) retryAfter(wait time.Duration, asDate bool) string {
	if asDate {
		// A date has no fractions: rounded up, so that nobody is called back early.
		return s.Behaviour().clock(s.cfg.Now()).Add(wait + time.Second - 1).UTC().Format(http.TimeFormat)
	}
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

// sleep waits for the drawn latency, or until the caller has gone: the request
// is then carried out at once, as the vendor does not notice either.
func (f fate) sleep(ctx context.Context) {
	if f.wait <= 0 {
		return
	}
	t := time.NewTimer(f.wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// rateWindow counts the API requests of the current minute.
type rateWindow struct {
	start time.Time
	used  int
}

// overLimit counts a request and returns how long the rest of the minute is if
// it was one too many. Called with mu held.
func (s *Sandbox) overLimit(now time.Time) (time.Duration, bool) {
	if s.cfg.RateLimit <= 0 {
		return 0, false
	}
	if minute := now.Truncate(time.Minute); !minute.Equal(s.window.start) {
		s.window = rateWindow{start: minute}
	}
	s.window.used++
	if s.window.used <= s.cfg.RateLimit {
		return 0, false
	}
	return s.window.start.Add(time.Minute).Sub(now), true
}
