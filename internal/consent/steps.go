package consent

import (
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// The steps of a link: functions of the document and the time, each of which the store takes as a whole or not at all. A
// step that finds itself done already changes nothing, as its write may have been stored without an answer.

const (
	// maxAttempts is how many attempts a document holds; the oldest that have ended make room.
	maxAttempts = 24
	// attemptsKept is how long an attempt that has ended, or was never ended, is remembered.
	attemptsKept = 24 * time.Hour
	// pendingBound is how long putting the tokens to use may take until another process takes it over.
	pendingBound = checkBound + 20*time.Second
	// clockSlack is how far the clocks of two replicas may be apart.
	clockSlack = 5 * time.Minute
)

// openAttempt reports whether the vendor's user may still come back.
func openAttempt(a relay.ConsentAttempt, now time.Time) bool {
	return a.Phase == relay.ConsentStarted && now.Sub(a.StartedAt) < relay.ConsentAttemptLife
}

// working reports whether somebody works on an attempt, or should.
func working(a relay.ConsentAttempt) bool {
	return a.Phase == relay.ConsentExchanging || a.Phase == relay.ConsentPending
}

// find returns an attempt of a link, nil if there is none.
func find(l *relay.ConsentLink, attempt string) *relay.ConsentAttempt {
	for i := range l.Attempts {
		if l.Attempts[i].ID == attempt {
			return &l.Attempts[i]
		}
	}
	return nil
}

// begin adds an attempt. Where too many are open the oldest can no longer be ended: a user who goes back and presses the
// button again is never kept out.
func begin(l *relay.ConsentLink, a relay.ConsentAttempt, now time.Time) (changed bool) {
	if find(l, a.ID) != nil {
		return false
	}
	l.Attempts = append(slices.Clone(l.Attempts), a)
	tidy(l, now)
	for open := 0; ; open = 0 {
		oldest := -1
		for i, other := range l.Attempts {
			if openAttempt(other, now) {
				if open++; oldest < 0 {
					oldest = i
				}
			}
		}
		if open <= relay.MaxOpenConsents {
			break
		}
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

// tidy forgets the secrets of attempts that can no longer be ended, and attempts of long ago.
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

// claimed is what came of a claim.
type claimed int

const (
	claimTaken   claimed = iota // the caller goes on with the attempt
	claimBusy                   // another exchange of the link is under way: wait for its end
	claimUnder                  // this attempt is under way, or has ended
	claimLate                   // the attempt was begun too long ago
	claimUnknown                // there is no such attempt
)

// claim uses up an attempt's state: from now on only worker may spend the code. The exchange ends within bound.
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

// busy reports whether somebody works on an attempt of a link.
func busy(l relay.ConsentLink, now time.Time) bool {
	return slices.ContainsFunc(l.Attempts, func(a relay.ConsentAttempt) bool { return working(a) && !overdue(a, now) })
}

// overdue reports whether whoever works on an attempt must have ended. Work that began in the future was begun before a
// clock jumped, and is not waited for.
func overdue(a relay.ConsentAttempt, now time.Time) bool {
	return working(a) && (!now.Before(a.Deadline) || a.Since.Sub(now) > clockSlack)
}

// granted is what an exchange has brought, sealed.
type granted struct {
	sealed      []byte
	at, expires time.Time
	missing     []string
	siteScope   bool
}

// keep stores the tokens of an exchange. That is done also where the exchange was taken for interrupted meanwhile: it was
// not. False: the tokens are of no use, as another consent of the link has succeeded or is about to.
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

// takeOver has worker go on with an attempt whose process has ended: by its deadline, or because it is known to be dead. An
// exchange cannot be gone on with.
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

// refuse ends an attempt that came back without a code.
func refuse(l *relay.ConsentLink, attempt string, r relay.ConsentResult) (changed bool) {
	if a := find(l, attempt); a == nil || !openAttempt(*a, r.At) {
		return false
	}
	return end(l, attempt, r)
}

// end ends an attempt; consent that has succeeded uses the link up.
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

// finish ends an attempt. The worker stays: should it come back with tokens after all, they are its own.
func finish(a *relay.ConsentAttempt, r relay.ConsentResult) {
	a.Phase, a.Sealed, a.Deadline, a.Result = relay.ConsentDone, nil, time.Time{}, &r
}

// missingScopes returns the wanted scopes that were not granted. ok says whether optional is among those granted. An answer
// that names none has granted what was asked for.
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

// sameScope compares two scopes. The vendor's own pages spell one of them in two ways.
func sameScope(a, b string) bool {
	bare := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "partsorders", "partorders") }
	return bare(a) == bare(b)
}

// expected reports whether a vendor's site id is among those of a connection; one without a table expects any.
func expected(c relay.Connection, siteID string) bool {
	if len(c.Sites) == 0 {
		return true
	}
	_, ok := c.Mapped(strings.TrimSpace(siteID))
	return ok
}
