package consent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// checkBound is how long asking the vendor who consented may take: a user is waiting for it.
const checkBound = 25 * time.Second

// putToUse continues an attempt whose tokens are stored: it asks the vendor who consented, replaces
// the connection's tokens, and ends the attempt. Every step may be repeated, even by two processes
// at the same time.
func (s *Service) putToUse(l relay.ConsentLink, a relay.ConsentAttempt, secrets relay.ConsentSecrets) {
	var (
		c      relay.Connection
		placed bool
		result relay.ConsentResult
	)
	if !s.persist(l, "read the connection of a consent", func(ctx context.Context) (err error) {
		if c, _, err = s.connection(ctx, l); errors.Is(err, store.ErrNotFound) {
			result.Outcome, err = relay.ConsentGone, nil
		}
		if err == nil && result.Outcome == "" {
			placed, err = s.isPlaced(ctx, l.Connection, a.ID)
		}
		return err
	}) {
		return
	}
	switch {
	case result.Outcome != "":
	case l.WithdrawnAt != nil && !placed:
		result.Outcome = relay.ConsentWithdrawn
	case len(a.ScopesMissing) > 0 && !placed:
		result.Outcome = relay.ConsentScopeMissing
	default:
		result = s.check(c, l, a, relay.NewSecret(secrets.Access))
		if placed && !result.Outcome.Succeeded() { // decided by the process that began it and then died
			result.Outcome = relay.ConsentUnchecked
		}
	}
	if result.Outcome.Succeeded() &&
		!s.persist(l, "put the tokens of a consent to use", func(ctx context.Context) error {
			outcome, err := s.replaceTokens(ctx, l, a, secrets, result)
			if err == nil {
				result.Outcome = outcome
			}
			return err
		}) {
		return
	}
	s.end(l, a.ID, result)
}

// connection reads the connection of a link. It returns store.ErrNotFound if the connection was
// removed, even if there is a new one with the same id.
func (s *Service) connection(ctx context.Context, l relay.ConsentLink) (relay.Connection, uint64, error) {
	c, revision, err := s.c.Store.Connections.GetAtLeader(ctx, l.Connection)
	if err == nil && c.Generation != l.Generation {
		err = fmt.Errorf("read connection %s: %w", l.Connection, store.ErrNotFound)
	}
	return c, revision, err
}

// isPlaced reports whether a connection's tokens come from an attempt.
func (s *Service) isPlaced(ctx context.Context, connection, attempt string) (bool, error) {
	rec, _, err := s.c.Store.Tokens.Token(ctx, connection)
	if errors.Is(err, relay.ErrNoToken) {
		return false, nil
	}
	return rec.ConsentID == attempt, err
}

// check asks the vendor who owns the token and, if the consent covers it, which site and company
// that is. If the vendor cannot be asked now, the tokens may still be used.
func (s *Service) check(
	c relay.Connection, l relay.ConsentLink, a relay.ConsentAttempt, token relay.Secret,
) relay.ConsentResult {
	if token.Empty() { // only the refresh token could be read
		return relay.ConsentResult{Outcome: relay.ConsentUnchecked}
	}
	ctx, cancel := context.WithTimeout(s.stopped, checkBound)
	defer cancel()
	who, err := s.c.Client.Whoami(ctx, token)
	result := relay.ConsentResult{Outcome: relay.ConsentConnected, CorrelationID: audatex.CorrelationIDOf(err)}
	result.Found.Account = shorten(who, maxAccount)
	if err != nil {
		s.logOf(l).Warn("the vendor could not be asked who has consented",
			"outcome", audatex.OutcomeOf(err).String(), "error", err)
	}
	switch audatex.OutcomeOf(err) {
	case audatex.Done:
	case audatex.Unauthorised:
		result.Outcome = relay.ConsentToken
		return result
	case audatex.Forbidden:
		result.Outcome = relay.ConsentScopeMissing
		return result
	default:
		result.Outcome = relay.ConsentUnchecked
	}
	if !a.SiteScope {
		return result
	}
	me, err := s.c.Client.Me(ctx, token)
	if err != nil {
		s.logOf(l).Warn("the vendor could not be asked which site has consented",
			"outcome", audatex.OutcomeOf(err).String(), "error", err)
		if audatex.OutcomeOf(err) != audatex.Forbidden { // otherwise the scope does not cover it after all
			result.Outcome, result.CorrelationID = relay.ConsentUnchecked, audatex.CorrelationIDOf(err)
		}
		return result
	}
	result.Found.SiteID, result.Found.CompanyCode, result.Found.TerminalID = me.SiteID, me.CompanyCode, me.TerminalID
	if !expected(c, me.SiteID) && !l.Force {
		result.Outcome = relay.ConsentWrongSite
	}
	return result
}

// maxAccount bounds, in characters, the vendor's name for the owner of a token.
const maxAccount = 100

// shorten makes foreign text safe for a page and a log line.
func shorten(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // including characters that change the text's direction
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most])
	}
	return strings.TrimSpace(text)
}

// replaceTokens replaces the connection's tokens by those of an attempt, no matter what the old ones are
// being used for, and records the consent in the connection, which wakes its owner. It does not
// replace the tokens of a later consent.
func (s *Service) replaceTokens(
	ctx context.Context, l relay.ConsentLink, a relay.ConsentAttempt, secrets relay.ConsentSecrets,
	r relay.ConsentResult,
) (relay.ConsentOutcome, error) {
	var revision uint64
	for {
		rec, at, err := s.c.Store.Tokens.Token(ctx, l.Connection)
		if err != nil && !errors.Is(err, relay.ErrNoToken) {
			return "", err
		}
		own := err == nil && rec.Generation == l.Generation
		if own && rec.ConsentID == a.ID {
			break
		}
		if own && rec.ConsentAt.After(a.GrantedAt) {
			return relay.ConsentAlready, nil
		}
		next := relay.TokenRecord{
			AccessToken: relay.NewSecret(secrets.Access), RefreshToken: relay.NewSecret(secrets.Refresh),
			RefreshedAt: a.GrantedAt, ExpiresAt: a.TokenExpiresAt, ConsentID: a.ID, ConsentAt: a.GrantedAt,
			Epoch: rec.Epoch, Generation: l.Generation,
		}
		revision, err = s.c.Store.Tokens.SaveToken(ctx, l.Connection, next, at)
		if err == nil {
			break
		}
		if !errors.Is(err, relay.ErrTokenChanged) {
			return "", err
		}
	}
	switch err := s.note(ctx, l, a, r); {
	case errors.Is(err, store.ErrNotFound): // removed at this moment: its new tokens must go as well
		if revision > 0 {
			_ = s.c.Store.Tokens.Delete(ctx, l.Connection, revision)
		}
		return relay.ConsentGone, nil
	case err != nil:
		return "", err
	}
	return r.Outcome, nil
}

// note records in the connection which consent its tokens come from.
func (s *Service) note(ctx context.Context, l relay.ConsentLink, a relay.ConsentAttempt, r relay.ConsentResult) error {
	for {
		c, revision, err := s.connection(ctx, l)
		if err != nil {
			return fmt.Errorf("note a consent: %w", err)
		}
		if c.Consent != nil && (c.Consent.ID == a.ID || c.Consent.At.After(a.GrantedAt)) {
			return nil
		}
		c.Consent = &relay.Consent{
			ID: a.ID, At: a.GrantedAt, Checked: r.Outcome == relay.ConsentConnected, ConsentFound: r.Found,
		}
		if _, err := s.c.Store.Connections.Update(ctx, c.ID, c, revision); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}
