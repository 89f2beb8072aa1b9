package consent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// budgetBound is how long an exchange may wait for the vendor's budget. A code is valid for a
	// minute.
	budgetBound = 25 * time.Second
	// storeSlack is how long storing the tokens may take before another process considers the
	// exchange interrupted.
	storeSlack = 15 * time.Second
	// storeAgain and storeAgainMost are the waits between attempts to store what exists nowhere
	// else.
	storeAgain     = 100 * time.Millisecond
	storeAgainMost = 5 * time.Second
	// tryBound is how long one such attempt may take.
	tryBound = 15 * time.Second
)

func (s *Service) exchangeBound() time.Duration { return budgetBound + s.c.CallBound }

// worker returns a name for one try of this process.
func (s *Service) worker() string { return s.nonce + "." + relay.NewID() }

// start marks an attempt as being worked on by this process. It returns false if it is already, or
// if the process is stopping. The caller must call done at the end.
func (s *Service) start(attempt string) (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.active[attempt] {
		return nil, false
	}
	s.active[attempt] = true
	s.running.Add(1)
	return func() {
		s.mu.Lock()
		delete(s.active, attempt)
		s.mu.Unlock()
		s.running.Done()
	}, true
}

// logOf returns a logger with the link's attributes.
func (s *Service) logOf(l relay.ConsentLink) *slog.Logger {
	return s.c.Log.With("connection", l.Connection, "link", l.ID)
}

// errClosing means that this process begins nothing more.
var errClosing = errors.New("the relay is stopping")

func (s *Service) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// exchangeOnce uses up an attempt's state and exchanges the code in the background, even if the request
// ends.
func (s *Service) exchangeOnce(ctx context.Context, attempt, link, code string) (claimed, error) {
	if s.closing() {
		return 0, errClosing
	}
	done, ok := s.start(attempt)
	if !ok {
		return claimBusy, nil
	}
	worker := s.worker()
	var outcome claimed
	l, err := s.change(ctx, link, func(l *relay.ConsentLink) (changed bool) {
		outcome, changed = claim(l, attempt, worker, time.Now().UTC(), s.exchangeBound()+storeSlack)
		return changed
	})
	if err != nil || outcome != claimTaken {
		done()
		return outcome, err
	}
	go func() {
		defer done()
		s.exchange(l, *find(&l, attempt), code)
	}()
	return claimTaken, nil
}

// exchange spends the code of a claimed attempt and stores the result.
func (s *Service) exchange(l relay.ConsentLink, a relay.ConsentAttempt, code string) {
	secrets, err := s.c.Store.OpenConsent(l.ID, a.ID, a.Sealed)
	if err != nil {
		s.logOf(l).Error("a consent cannot be ended: its secrets cannot be read", "error", err)
		s.end(l, a.ID, relay.ConsentResult{Outcome: relay.ConsentInterrupted})
		return
	}
	if until := s.pausedUntil(time.Now()); time.Until(until) > budgetBound { // the code will be too old by then
		s.logOf(l).Warn("the code of a consent was not exchanged, as the vendor has asked for quiet", "until", until)
		s.end(l, a.ID, relay.ConsentResult{Outcome: relay.ConsentVendor})
		return
	}
	ctx, cancel := context.WithTimeout(s.stopped, s.exchangeBound())
	defer cancel()
	got, err := s.c.Tokens.ExchangeCode(ctx, audatex.Code{
		Code: code, RedirectURI: s.redirectURI(), Verifier: relay.NewSecret(secrets.Verifier),
	})
	if err != nil {
		s.logOf(l).Warn("the code of a consent was not exchanged",
			"outcome", audatex.OutcomeOf(err).String(), "correlation_id", audatex.CorrelationIDOf(err), "error", err)
		s.end(l, a.ID, relay.ConsentResult{Outcome: codeOutcome(err), CorrelationID: audatex.CorrelationIDOf(err)})
		return
	}
	secrets = relay.ConsentSecrets{Access: got.AccessToken.Reveal(), Refresh: got.RefreshToken.Reveal()}
	sealed, err := s.c.Store.SealConsent(l.ID, a.ID, secrets)
	if err != nil {
		s.logOf(l).Error("the tokens of a consent cannot be encrypted", "error", err)
		s.end(l, a.ID, relay.ConsentResult{Outcome: relay.ConsentInterrupted})
		return
	}
	g := granted{sealed: sealed, at: got.RefreshedAt, expires: got.ExpiresAt}
	g.missing, g.siteScope = missingScopes(s.c.Scopes, got.Scopes, audatex.ScopeCompany)
	kept := false
	if !s.persist(l, "store the tokens of a consent", func(ctx context.Context) error {
		stored, err := s.change(ctx, l.ID, func(l *relay.ConsentLink) (changed bool) {
			kept, changed = keep(l, a.ID, a.Worker, g, time.Now().UTC())
			return changed
		})
		if err == nil {
			l = stored
		}
		return err
	}) || !kept {
		return
	}
	s.putToUse(l, *find(&l, a.ID), secrets)
}

// codeOutcome returns the outcome of an exchange that failed.
func codeOutcome(err error) relay.ConsentOutcome {
	switch audatex.OutcomeOf(err) {
	case audatex.Unauthorised:
		return relay.ConsentCode
	case audatex.Forbidden:
		return relay.ConsentClient
	default:
		return relay.ConsentVendor
	}
}

// persist repeats do until it succeeds, the link is gone, or the process ends.
func (s *Service) persist(l relay.ConsentLink, what string, do func(context.Context) error) bool {
	for wait := (backoff.Backoff{Least: storeAgain, Most: storeAgainMost}); ; {
		ctx, cancel := context.WithTimeout(s.stopped, tryBound)
		err := do(ctx)
		cancel()
		switch {
		case err == nil:
			return true
		case errors.Is(err, store.ErrNotFound):
			s.logOf(l).Error("could not " + what + ": the link is gone")
			return false
		}
		level := store.Level(err, slog.LevelError)
		s.logOf(l).Log(s.stopped, level, "could not "+what+"; it is tried again", "error", err)
		if !wait.Sleep(s.stopped, 0) {
			return false
		}
	}
}

// end stores the result of an attempt.
func (s *Service) end(l relay.ConsentLink, attempt string, r relay.ConsentResult) {
	r.At = time.Now().UTC()
	changed := false
	if !s.persist(l, "store the end of a consent", func(ctx context.Context) error {
		_, err := s.change(ctx, l.ID, func(l *relay.ConsentLink) bool {
			ended := end(l, attempt, r)
			changed = changed || ended
			return ended
		})
		return err
	}) || !changed {
		return
	}
	s.ended(l, r)
}

// ended counts and logs a consent that has ended.
func (s *Service) ended(l relay.ConsentLink, r relay.ConsentResult) {
	s.c.Metrics.ended(r.Outcome)
	s.logOf(l).Info("a consent has ended", "outcome", string(r.Outcome),
		"vendor_site", r.Found.SiteID, "correlation_id", r.CorrelationID)
}

// resume continues an attempt whose process has ended, in the background.
func (s *Service) resume(link, attempt string) {
	done, ok := s.start(attempt)
	if !ok {
		return
	}
	go func() {
		defer done()
		worker := s.worker()
		taken := false
		l, err := s.change(s.stopped, link, func(l *relay.ConsentLink) bool {
			changed := takeOver(l, attempt, worker, time.Now().UTC(), s.dead)
			taken = taken || changed
			return changed
		})
		if err != nil {
			level := store.Level(err, slog.LevelWarn)
			s.c.Log.Log(s.stopped, level, "a consent of another process could not be gone on with",
				"link", link, "error", err)
			return
		}
		a := find(&l, attempt)
		switch {
		case !taken || a == nil || a.Worker != worker && a.Phase != relay.ConsentDone:
		case a.Phase == relay.ConsentDone:
			s.ended(l, *a.Result)
		default:
			secrets, err := s.c.Store.OpenConsent(l.ID, a.ID, a.Sealed)
			if err != nil {
				s.logOf(l).Error("the tokens of a consent cannot be read", "error", err)
				s.end(l, a.ID, relay.ConsentResult{Outcome: relay.ConsentInterrupted})
				return
			}
			s.putToUse(l, *a, secrets)
		}
	}()
}

// redirectURI is the address to which the vendor sends browsers back.
func (s *Service) redirectURI() string { return s.c.PublicURL + callbackPath }
