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

// Faults configures what fails, and how often. Shares are between 0 and 1. The first five exclude
// each other, so their sum is at most 1; latency is added to any of them.
type Faults struct {
	// Share500, Share429 and Share503 are refused with that status before the request has any
	// effect.
	Share500 float64 `json:"share500"`
	Share429 float64 `json:"share429"`
	Share503 float64 `json:"share503"`
	// ShareCut has its connection closed before the request has any effect.
	ShareCut float64 `json:"shareCut"`
	// ShareCutAfterRead is executed completely, but the response is cut: half of them before the
	// first byte, half in the middle of the body. A poll's page is gone then, a refresh token is
	// spent.
	ShareCutAfterRead float64 `json:"shareCutAfterRead"`
	// ShareLatency waits for Latency before anything else. If the caller gives up in the meantime,
	// the request is executed nevertheless.
	ShareLatency float64       `json:"shareLatency"`
	Latency      time.Duration `json:"-"`
	// RetryAfter is sent with 429 and 503, rounded up to seconds. A hostile sandbox sometimes
	// writes it as an HTTP date. 0 sends no Retry-After.
	RetryAfter time.Duration `json:"-"`
	// Operations and Paths (prefixes of the URL path) select the affected requests; one match is
	// enough. If both are empty, it is the API without consent and tokens: a cut token response
	// costs a consent, so that must be requested explicitly.
	Operations []Operation `json:"operations,omitempty"`
	Paths      []string    `json:"paths,omitempty"`
}

// share is how often one kind of fault happens.
type share struct {
	kind  faultKind
	name  string
	value float64
}

func (s share) validate() error {
	if !(s.value >= 0 && s.value <= 1) { // written so that NaN fails
		return fmt.Errorf("%s is %v: a share is between 0 and 1", s.name, s.value)
	}
	return nil
}

// exclusive returns the shares that exclude each other.
func (f Faults) exclusive() []share {
	return []share{
		{fault500, "share500", f.Share500}, {fault429, "share429", f.Share429}, {fault503, "share503", f.Share503},
		{faultCut, "shareCut", f.ShareCut}, {faultCutAfter, "shareCutAfterRead", f.ShareCutAfterRead},
	}
}

func (f Faults) validate() error {
	sum := 0.0
	for _, s := range f.exclusive() {
		if err := s.validate(); err != nil {
			return err
		}
		sum += s.value
	}
	if sum > 1.000001 { // ten times 0.1 must count as 1
		return fmt.Errorf("the shares of 500, 429, 503, cut and cut after read add up to %v: at most 1", sum)
	}
	if err := (share{faultLatency, "shareLatency", f.ShareLatency}).validate(); err != nil {
		return err
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

// SetFaults replaces all faults; without arguments everything works again. The first fault that
// matches a request is used. If a share is not between 0 and 1, the exclusive shares add up to more
// than 1, or an operation does not exist, it returns an error and changes nothing.
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

// Faults returns the present faults.
func (s *Sandbox) Faults() []Faults { return slices.Clone(*s.faults.Load()) }

// drawnFault is the result of the draw for one request.
type drawnFault struct {
	kind       faultKind
	wait       time.Duration
	retryAfter string // header value, "" for none
	middle     bool   // a cut response ends in the middle of its body
}

type faultKind string

const (
	faultNone     faultKind = ""
	fault500      faultKind = "500"
	fault429      faultKind = "429"
	fault503      faultKind = "503"
	faultCut      faultKind = "cut"
	faultCutAfter faultKind = "cutAfterRead"
	faultLatency  faultKind = "latency" // only counted, in addition to any other
)

func (s *Sandbox) drawFault(op Operation, path string) drawnFault {
	faults := *s.faults.Load()
	i := slices.IndexFunc(faults, func(f Faults) bool { return f.hits(op, path) })
	if i < 0 {
		return drawnFault{}
	}
	f, d := faults[i], s.dice("fate", s.faultDraws.Add(1)) // the name is a part of the seed
	late, which := d.Float64(), d.Float64()
	out := drawnFault{middle: d.oneIn(2)}
	if late < f.ShareLatency {
		out.wait = f.Latency
	}
	for _, share := range f.exclusive() {
		if which < share.value {
			out.kind = share.kind
			break
		}
		which -= share.value
	}
	if f.RetryAfter > 0 && (out.kind == fault429 || out.kind == fault503) {
		out.retryAfter = s.retryAfter(f.RetryAfter, !s.cfg.Tame && d.oneIn(4))
	}
	return out
}

func (s *Sandbox) retryAfter(wait time.Duration, asDate bool) string {
	if asDate {
		// A date has no fractions: rounded up, so that nobody calls back too early.
		return s.Behaviour().clock(s.cfg.Now()).Add(wait + time.Second - 1).UTC().Format(http.TimeFormat)
	}
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

// sleep waits for the drawn latency, or until the caller has gone. In that case the request is
// executed at once, because the vendor does not notice either.
func (f drawnFault) sleep(ctx context.Context) {
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

// overLimit counts a request. If it exceeds the limit, overLimit returns the rest of the minute.
// The caller must hold mu.
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
