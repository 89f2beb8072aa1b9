package consent

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// openedAgain is how long further requests for a link's page are not recorded.
	openedAgain = time.Minute
	// resultBound is how long a request waits for a consent to end before it shows that it is still
	// under way.
	resultBound = 20 * time.Second
	// lookFirst and lookMost are the first and the longest wait between two reads of the link.
	lookFirst = 50 * time.Millisecond
	lookMost  = time.Second
)

// open handles GET of a link: it shows who asks for what, and changes nothing.
func (s *Service) open(w http.ResponseWriter, r *http.Request, v *visit, text string) *page {
	l, _, refusal := s.admitted(w, r, v, text, newPage("unknown"))
	if refusal != nil {
		return refusal
	}
	if r.Method == http.MethodGet {
		s.opened(r.Context(), l, v.now.UTC())
	}
	c, refused, err := s.usable(r.Context(), l, v.now)
	switch {
	case err != nil:
		return s.trouble(v, err)
	case refused != nil:
		return refused
	}
	return s.pageOfConsent(l, c, text, s.pausedUntil(v.now))
}

// opened records when a link was last opened. If that fails, the page is shown nevertheless.
func (s *Service) opened(ctx context.Context, l relay.ConsentLink, now time.Time) {
	if l.LastOpenedAt != nil && now.Sub(*l.LastOpenedAt) < openedAgain {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = s.change(ctx, l.ID, func(l *relay.ConsentLink) bool {
		if l.LastOpenedAt != nil && now.Sub(*l.LastOpenedAt) < openedAgain {
			return false
		}
		l.LastOpenedAt = &now
		return true
	})
}

// usable returns the connection of a usable link, or the page that explains why it is not usable.
func (s *Service) usable(ctx context.Context, l relay.ConsentLink, now time.Time) (relay.Connection, *page, error) {
	if state := l.State(now); state != relay.ConsentLinkOpen {
		return relay.Connection{}, s.pageOfClosedLink(l, state), nil
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	c, _, err := s.connection(ctx, l)
	if errors.Is(err, store.ErrNotFound) {
		return c, s.pageOfClosedLink(l, relay.ConsentLinkWithdrawn), nil
	}
	return c, nil, err
}

// pausedUntil returns the time until which the vendor has asked for no requests, zero if it has
// not.
func (s *Service) pausedUntil(now time.Time) time.Time {
	if until := s.c.Budget.BlockedUntil(); until.After(now) {
		return until
	}
	return time.Time{}
}

// press handles the button: it begins a consent and sends the browser to the vendor.
func (s *Service) press(w http.ResponseWriter, r *http.Request, v *visit, text string) *page {
	l, cred, refusal := s.admitted(w, r, v, text, newPage("unknown"))
	if refusal != nil {
		return refusal
	}
	if !s.fromOurPage(r) || !s.readForm(w, r) {
		return s.pageOfForeignButton(text)
	}
	c, refused, err := s.usable(r.Context(), l, v.now)
	until := s.pausedUntil(v.now)
	switch {
	case err != nil:
		return s.trouble(v, err)
	case refused != nil:
		return refused
	case !until.IsZero():
		p := s.pageOfConsent(l, c, text, until)
		p.Status, p.RetryAfter = http.StatusServiceUnavailable, until.Sub(v.now)
		return p
	}
	state, cookie, verifier := newState(l.ID), newSecret(), ""
	if s.c.PKCE {
		verifier = newSecret()
	}
	a := relay.ConsentAttempt{
		ID: attemptID(state), Cookie: hashOf(cookie), StartedAt: v.now.UTC(), Phase: relay.ConsentStarted,
	}
	a.Sealed, err = s.c.Store.SealConsent(l.ID, a.ID, relay.ConsentSecrets{Verifier: verifier})
	began := false
	if err == nil {
		l, err = s.change(r.Context(), l.ID, func(l *relay.ConsentLink) bool {
			began = l.State(v.now) == relay.ConsentLinkOpen && (cred.attempt == "" || find(l, cred.attempt) != nil)
			return began && begin(l, a, v.now.UTC())
		})
	}
	switch {
	case err != nil:
		return s.trouble(v, err)
	case !began:
		return s.pageOfClosedLink(l, l.State(v.now))
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure, except for http on loopback: browsers would not keep it
		Name: s.cookieName(a.ID), Value: cookie, Path: "/", MaxAge: int(relay.ConsentAttemptLife / time.Second),
		HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteLaxMode,
	})
	return redirect("begin", s.consentURL(state, verifier))
}

// readForm reads the button's form, with a limited size. It returns false if it is not that form.
func (s *Service) readForm(w http.ResponseWriter, r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return false
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return r.ParseForm() == nil && r.PostForm.Get("begin") == "1"
}

// callback handles the redirect back from the vendor. It redirects to the result, which is the same
// for every request with the same state.
func (s *Service) callback(w http.ResponseWriter, r *http.Request, v *visit) *page {
	query := r.URL.Query()
	state, code, vendorError := query.Get("state"), query.Get("code"), query.Get("error")
	if c, ok := readCredential(state); !ok || c.attempt == "" {
		return s.refuse(w, r, v, newPage("never-seen"))
	}
	l, cred, refusal := s.admitted(w, r, v, state, newPage("never-seen"))
	if refusal != nil {
		return refusal
	}
	a := *find(&l, cred.attempt)
	switch {
	case !s.sameBrowser(r, a):
		return s.pageOfOtherBrowser(l, state, v.now)
	case a.Phase != relay.ConsentStarted:
	case !openAttempt(a, v.now):
		return s.pageOfAttempt("late", l, state, v.now)
	case r.Method == http.MethodHead: // must change nothing
	case vendorError != "":
		if err := s.refused(r.Context(), l, a.ID, vendorError); err != nil {
			return s.trouble(v, err)
		}
		if vendorError != "access_denied" {
			s.c.Log.WarnContext(r.Context(), "the vendor sent somebody back without a code", "connection", l.Connection,
				"link", l.ID,
				"error", shorten(vendorError, maxAccount), "description",
				shorten(query.Get("error_description"), maxAccount))
		}
	case code == "" || len(code) > maxQuery:
		return s.pageOfAttempt("no-code", l, state, v.now)
	default:
		outcome, err := s.spendInTurn(r.Context(), l.ID, a.ID, code)
		switch {
		case err != nil:
			return s.trouble(v, err)
		case outcome == claimLate || outcome == claimUnknown:
			return s.pageOfAttempt("late", l, state, v.now)
		case outcome == claimBusy:
			return s.pageOfWaiting(l, "")
		}
	}
	return redirect("callback", s.path(pagesPath+state+resultPath))
}

// refused ends an attempt that returned with one of the errors of RFC 6749, section 4.1.2.1,
// instead of a code.
func (s *Service) refused(ctx context.Context, l relay.ConsentLink, attempt, code string) error {
	r := relay.ConsentResult{At: time.Now().UTC(), Outcome: refusalOutcome(code)}
	changed := false
	l, err := s.change(ctx, l.ID, func(l *relay.ConsentLink) bool {
		ended := refuse(l, attempt, r)
		changed = changed || ended
		return ended
	})
	if err == nil && changed {
		s.ended(l, r)
	}
	return err
}

// refusalOutcome returns the outcome for an error in the redirect back.
func refusalOutcome(code string) relay.ConsentOutcome {
	switch code {
	case "access_denied":
		return relay.ConsentDenied
	case "invalid_scope":
		return relay.ConsentScopeMissing
	case "unauthorized_client", "invalid_client", "invalid_request", "unsupported_response_type":
		return relay.ConsentClient
	default:
		return relay.ConsentVendor
	}
}

// spendInTurn spends a code as soon as no other exchange of the link is under way, if that happens
// soon.
func (s *Service) spendInTurn(ctx context.Context, link, attempt, code string) (claimed, error) {
	ctx, cancel := s.whileServing(ctx)
	defer cancel()
	for wait := (backoff.Backoff{Least: lookFirst, Most: lookMost}); ; {
		outcome, err := s.exchangeOnce(ctx, attempt, link, code)
		if err != nil || outcome != claimBusy {
			return outcome, err
		}
		// Another request with the same state may be at work in this process.
		if l, _, err := s.load(ctx, link); err == nil {
			if a := find(&l, attempt); a != nil && a.Phase != relay.ConsentStarted {
				return claimUnder, nil
			}
		}
		if !wait.Sleep(ctx, 0) {
			return outcome, nil
		}
	}
}

// result shows how a consent has ended. It waits for the end for a while.
func (s *Service) result(w http.ResponseWriter, r *http.Request, v *visit, state string) *page {
	l, cred, refusal := s.admitted(w, r, v, state, newPage("unknown"))
	if refusal != nil {
		return refusal
	}
	if cred.attempt == "" {
		return newPage("unknown")
	}
	if !s.sameBrowser(r, *find(&l, cred.attempt)) {
		return s.pageOfOtherBrowser(l, state, v.now)
	}
	l, err := s.await(r.Context(), v, l, cred.attempt)
	if err != nil {
		return s.trouble(v, err)
	}
	a := find(&l, cred.attempt)
	switch {
	case a == nil || a.Phase == relay.ConsentStarted && !openAttempt(*a, v.now):
		return s.pageOfAttempt("late", l, state, v.now)
	case a.Phase != relay.ConsentDone:
		return s.pageOfWaiting(l, s.path(pagesPath+state+resultPath))
	}
	ctx, cancel := context.WithTimeout(r.Context(), storePatience)
	defer cancel()
	c, _, err := s.connection(ctx, l)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return s.trouble(v, err)
	}
	return s.pageOfResult(l, c, *a.Result, state, v.now)
}

// await waits for a limited time until no process works on an attempt any more.
func (s *Service) await(ctx context.Context, v *visit, l relay.ConsentLink, attempt string) (relay.ConsentLink, error) {
	a := find(&l, attempt)
	if a == nil || !working(*a) {
		return l, nil
	}
	done, ok := s.guards.wait(v.addr)
	if !ok {
		return l, nil
	}
	defer done()
	ctx, cancel := s.whileServing(ctx)
	defer cancel()
	for wait := (backoff.Backoff{Least: lookFirst, Most: lookMost}); ; {
		if overdue(*a, time.Now()) || s.dead(a.Worker) {
			s.resume(l.ID, attempt)
		}
		if !wait.Sleep(ctx, 0) {
			return l, nil
		}
		now, _, err := s.load(ctx, l.ID)
		if err != nil {
			if ctx.Err() != nil || store.InTrouble(err) { // tried again
				continue
			}
			return l, err
		}
		l = now
		if a = find(&l, attempt); a == nil || !working(*a) {
			return l, nil
		}
	}
}

// whileServing returns a context for a request that waits for a consent to end. It also ends when
// Close has waited long enough.
func (s *Service) whileServing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, resultBound)
	release := context.AfterFunc(s.stopped, cancel)
	return ctx, func() { release(); cancel() }
}

// consentURL returns the vendor's page on which the user consents.
func (s *Service) consentURL(state, verifier string) string {
	c := audatex.Consent{State: state, RedirectURI: s.redirectURI()}
	if verifier != "" {
		c.Challenge = challenge(verifier)
	}
	return s.c.Tokens.ConsentURL(c)
}
