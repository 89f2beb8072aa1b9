package consent

import (
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// The steps of a link are functions of the document and the time. The store applies each of them
// completely or not at all. A step that has already been done changes nothing, because its write
// may have been stored without a response.

const (
	// maxAttempts is how many attempts a document holds. The oldest finished ones are removed
	// first.
	maxAttempts = 24
	// attemptsKept is how long an attempt is kept that has ended, or was never completed.
	attemptsKept = 24 * time.Hour
	// pendingBound is how long applying the tokens may take before another process takes over.
	pendingBound = checkBound + 20*time.Second
	// clockSlack is how much the clocks of two replicas may differ.
	clockSlack = 5 * time.Minute
)

// openAttempt reports whether the vendor's user may still come back.
func openAttempt(a relay.ConsentAttempt, now time.Time) bool {
	return a.Phase == relay.ConsentStarted && now.Sub(a.StartedAt) < relay.ConsentAttemptLife
}

// working reports whether a process is working on an attempt, or should be.
func working(a relay.ConsentAttempt) bool {
	return a.Phase == relay.ConsentExchanging || a.Phase == relay.ConsentPending
}

// find returns an attempt of a link, or nil.
func find(l *relay.ConsentLink, attempt string) *relay.ConsentAttempt {
	i := slices.IndexFunc(l.Attempts, func(a relay.ConsentAttempt) bool { return a.ID == attempt })
	if i < 0 {
		return nil
	}
	return &l.Attempts[i]
}

// begin adds an attempt. If too many are open, the oldest can no longer be completed. So a user who
// goes back and presses the button again is never locked out.
func begin(l *relay.ConsentLink, a relay.ConsentAttempt, now time.Time) (changed bool) {
	if find(l, a.ID) != nil {
		return false
	}
	l.Attempts = append(slices.Clone(l.Attempts), a)
	tidy(l, now)
	isOpen := func(a relay.ConsentAttempt) bool { return openAttempt(a, now) }
	closed := slices.DeleteFunc(slices.Clone(l.Attempts), isOpen)
	for open := len(l.Attempts) - len(closed); open > relay.MaxOpenConsents; open-- {
		oldest := slices.IndexFunc(l.Attempts, isOpen)
		l.Attempts = slices.Delete(l.Attempts, oldest, oldest+1)
	}
	for len(l.Attempts) > maxAttempts {
		i := slices.IndexFunc(l.Attempts, func(a relay.ConsentAttempt) bool {
			return !working(a) && !openAttempt(a, now)
		})
		if i < 0 {
			break
		}
		l.Attempts = slices.Delete(l.Attempts, i, i+1)
	}
	return true
}

// tidy removes the secrets of attempts that can no longer be completed, and old attempts.
func tidy(l *relay.ConsentLink, now time.Time) (changed bool) {
	var kept []relay.ConsentAttempt
	for _, a := range l.Attempts {
		switch {
		case !working(a) && now.Sub(a.StartedAt) > attemptsKept:
			changed = true
			continue
		case a.Phase == relay.ConsentStarted && !openAttempt(a, now) && a.Sealed != nil:
			a.Sealed, changed = nil, true
		}
		kept = append(kept, a)
	}
	if changed {
		l.Attempts = kept
	}
	return changed
}

// claimed is the result of a claim.
type claimed int

const (
	claimTaken   claimed = iota // the caller continues with the attempt
	claimBusy                   // another exchange of the link is under way: wait for its end
	claimUnder                  // this attempt is under way, or has ended
	claimLate                   // the attempt was begun too long ago
	claimUnknown                // there is no such attempt
)

// claim uses up an attempt's state. From then on only worker may spend the code. The exchange ends
// within bound.
func claim(l *relay.ConsentLink, attempt, worker string, now time.Time, bound time.Duration) (claimed, bool) {
	a := find(l, attempt)
	switch {
	case a == nil:
		return claimUnknown, false
	case a.Phase != relay.ConsentStarted:
		if a.Worker == worker {
			return claimTaken, false
		}
		return claimUnder, false
	case !openAttempt(*a, now):
		return claimLate, false
	case l.UsedAt == nil && busy(*l, now):
		return claimBusy, false
	}
	l.Attempts = slices.Clone(l.Attempts)
	a = find(l, attempt)
	switch {
	case l.UsedAt != nil:
		finish(a, relay.ConsentResult{Outcome: relay.ConsentAlready, At: now})
		return claimUnder, true
	case l.WithdrawnAt != nil:
		finish(a, relay.ConsentResult{Outcome: relay.ConsentWithdrawn, At: now})
		return claimUnder, true
	}
	a.Phase, a.Worker, a.Since, a.Deadline = relay.ConsentExchanging, worker, now, now.Add(bound)
	return claimTaken, true
}

// busy reports whether a process is working on an attempt of a link.
func busy(l relay.ConsentLink, now time.Time) bool {
	return slices.ContainsFunc(l.Attempts, func(a relay.ConsentAttempt) bool { return working(a) && !overdue(a, now) })
}

// overdue reports whether the process that works on an attempt must have ended. An attempt whose
// work seems to have begun in the future began before a clock changed; it is overdue, too.
func overdue(a relay.ConsentAttempt, now time.Time) bool {
	return working(a) && (!now.Before(a.Deadline) || a.Since.Sub(now) > clockSlack)
}

// granted is the result of an exchange; the tokens are sealed.
type granted struct {
	sealed      []byte
	at, expires time.Time
	missing     []string
	siteScope   bool
}

// keep stores the tokens of an exchange, even if the exchange was considered interrupted meanwhile:
// it was not. It returns kept = false if the tokens are of no use, because another consent of the
// link has succeeded or is about to.
func keep(l *relay.ConsentLink, attempt, worker string, g granted, now time.Time) (kept, changed bool) {
	a := find(l, attempt)
	switch {
	case a == nil || a.Worker != worker:
		return false, false
	case a.Phase == relay.ConsentPending:
		return true, false
	case a.Phase == relay.ConsentDone && (a.Result.Outcome != relay.ConsentInterrupted || l.UsedAt != nil):
		return false, false
	}
	l.Attempts = slices.Clone(l.Attempts)
	a = find(l, attempt)
	a.Phase, a.Since, a.Deadline, a.Result = relay.ConsentPending, now, now.Add(pendingBound), nil
	a.Sealed, a.GrantedAt, a.TokenExpiresAt = g.sealed, g.at, g.expires
	a.ScopesMissing, a.SiteScope = g.missing, g.siteScope
	return true, true
}

// takeOver makes worker continue an attempt whose process has ended, because its deadline has
// passed or it is known to be dead. An exchange cannot be continued.
func takeOver(
	l *relay.ConsentLink, attempt, worker string, now time.Time, dead func(worker string) bool,
) (changed bool) {
	a := find(l, attempt)
	if a == nil || !working(*a) || a.Worker == worker || !overdue(*a, now) && !dead(a.Worker) {
		return false
	}
	l.Attempts = slices.Clone(l.Attempts)
	a = find(l, attempt)
	if a.Phase == relay.ConsentExchanging {
		finish(a, relay.ConsentResult{Outcome: relay.ConsentInterrupted, At: now})
		return true
	}
	a.Worker, a.Since, a.Deadline = worker, now, now.Add(pendingBound)
	return true
}

// refuse ends an attempt that returned without a code.
func refuse(l *relay.ConsentLink, attempt string, r relay.ConsentResult) (changed bool) {
	if a := find(l, attempt); a == nil || !openAttempt(*a, r.At) {
		return false
	}
	return end(l, attempt, r)
}

// end ends an attempt. A successful consent uses up the link.
func end(l *relay.ConsentLink, attempt string, r relay.ConsentResult) (changed bool) {
	a := find(l, attempt)
	if a == nil || a.Phase == relay.ConsentDone {
		return false
	}
	l.Attempts = slices.Clone(l.Attempts)
	finish(find(l, attempt), r)
	if r.Outcome.Succeeded() && l.UsedAt == nil {
		at := r.At
		l.UsedAt = &at
	}
	return true
}

// finish ends an attempt. It keeps the worker: if that worker returns with tokens after all, they
// belong to the attempt.
func finish(a *relay.ConsentAttempt, r relay.ConsentResult) {
	a.Phase, a.Sealed, a.Deadline, a.Result = relay.ConsentDone, nil, time.Time{}, &r
}

// missingScopes returns the wanted scopes that were not granted. ok is true if the optional scope
// was granted. If the vendor names no scopes, it has granted all that were requested.
func missingScopes(wanted, got []string, optional string) (missing []string, ok bool) {
	for _, scope := range wanted {
		has := got == nil || slices.ContainsFunc(got, func(g string) bool { return sameScope(g, scope) })
		switch {
		case sameScope(scope, optional):
			ok = has
		case !has:
			missing = append(missing, scope)
		}
	}
	return missing, ok
}

// sameScope compares two scopes. The vendor's documentation spells one of them in two ways.
func sameScope(a, b string) bool {
	bare := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "partsorders", "partorders") }
	return bare(a) == bare(b)
}

// expected reports whether a vendor's site id is one of the connection's. A connection without a
// table accepts any.
func expected(c relay.Connection, siteID string) bool {
	if len(c.Sites) == 0 {
		return true
	}
	_, ok := c.Mapped(strings.TrimSpace(siteID))
	return ok
}
