package audatex

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// storeTimeout bounds one read or write of the token record.
	storeTimeout = 10 * time.Second
	// storeSlack is the time that a successor allows, beyond the request's own timeout, for storing
	// the result.
	storeSlack = 15 * time.Second
	// sendSlack is how old an intent may be when its request is sent.
	sendSlack = 5 * time.Second
	// ownerPatience is when a process that does not own a connection may look for its token again.
	ownerPatience = 5 * time.Second
)

// errSuperseded means that the record changed during a refresh so that the result is of no use (a
// new refresh token was entered, or the connection was removed). Those who waited look again.
var errSuperseded = errors.New("token record was replaced during the refresh")

// refresh makes one refresh: it waits for the budget, stores the intent, sends the request, and
// stores the result. A later flight repeats what may be repeated, after its backoff. Only storing a
// result is retried here, because it exists nowhere else.
func (t *Tokens) refresh(connection string) (relay.Secret, error) {
	// The budget comes first: an intent must be followed by its request, not by a long wait.
	in, err := t.host.enter(t.starts, OpToken, PriorityRefresh, connection)
	if err != nil {
		return relay.Secret{}, err
	}
	defer in.leave()
	rec, revision, err := t.announce(connection)
	if err != nil {
		return relay.Secret{}, err
	}
	if rec.Intent == nil { // another process has refreshed it in the meantime
		return rec.AccessToken, nil
	}
	log := t.log.With(slog.String("connection", connection))
	// A process that was suspended here sends nothing, because its successor may have used the
	// refresh token. The intent stays.
	started := rec.Intent.StartedAt
	if lease, owned := t.cfg.Lease(connection); !owned || !lease.Valid() || time.Since(started) > sendSlack {
		return relay.Secret{}, notOwned(connection)
	}
	got, failed := t.exchange(t.works, rec.RefreshToken)
	in.report(replyOf(t.works, failed), failed)
	next := rec
	next.Intent = nil
	switch {
	case !got.refresh.Empty():
		// The refresh token is stored in any case: it exists nowhere else, and the old one may be
		// spent.
		next.AccessToken, next.RefreshToken = got.access, got.refresh
		next.RefreshedAt, next.ExpiresAt = got.at, got.expires
	case errors.Is(failed, errInvalidGrant):
		now := time.Now().UTC()
		next.AccessToken = relay.Secret{}
		next.ConsentRequiredSince, next.Reason = &now, "the vendor refused the refresh token (invalid_grant)"
	default:
		// It is unknown whether the token is spent: the intent stays.
		return relay.Secret{}, t.notRefreshed(log, connection, failed)
	}
	if err := t.settle(connection, rec, next, revision); err != nil {
		t.cfg.Metrics.refresh("not-stored")
		log.Error("result of a token refresh was not stored",
			slog.String("correlation_id", got.correlationID), slog.Any("error", err))
		return relay.Secret{}, err
	}
	// The backoff of the old token applies to the one that is stored now.
	if !got.refresh.Empty() && failed != nil {
		t.mu.Lock()
		t.state(connection).tried = got.refresh
		t.mu.Unlock()
		return relay.Secret{}, t.notRefreshed(log, connection, failed)
	}
	if err := consentError(connection, next); err != nil {
		t.cfg.Metrics.refresh("consent-required")
		log.Error("refresh token refused: a new consent is required", slog.String("correlation_id", got.correlationID))
		return relay.Secret{}, err
	}
	t.cfg.Metrics.refresh(Done.String())
	log.Debug("access token refreshed",
		slog.String("correlation_id", got.correlationID), slog.Time("expires_at", next.ExpiresAt))
	return next.AccessToken, nil
}

// notRefreshed counts and logs a refresh without an access token, and returns its error.
func (t *Tokens) notRefreshed(log *slog.Logger, connection string, err error) error {
	t.cfg.Metrics.refresh(OutcomeOf(err).String())
	log.Warn("access token not refreshed", slog.String("outcome", OutcomeOf(err).String()),
		slog.String("correlation_id", CorrelationIDOf(err)), slog.Any("error", err))
	return fmt.Errorf("refreshing the token of connection %s: %w", connection, err)
}

// announce stores the intent to refresh and returns the record with it. If the returned record has
// no intent, another process has refreshed it.
func (t *Tokens) announce(connection string) (relay.TokenRecord, uint64, error) {
	for range 5 {
		rec, revision, err := t.load(t.starts, connection)
		if err != nil {
			return relay.TokenRecord{}, 0, fmt.Errorf("token of connection %s: %w", connection, err)
		}
		if err := consentError(connection, rec); err != nil {
			return relay.TokenRecord{}, 0, err
		}
		now := time.Now()
		if rec.RefreshToken.Empty() {
			return relay.TokenRecord{}, 0, fmt.Errorf("token of connection %s: %w", connection, relay.ErrNoToken)
		}
		if good, due := t.judge(connection, rec, now); good && !due && rec.Intent == nil {
			return rec, revision, nil
		}
		lease, owned := t.cfg.Lease(connection)
		if !owned || !lease.Valid() {
			return relay.TokenRecord{}, 0, notOwned(connection)
		}
		if rec.Epoch > lease.Epoch() {
			lease.Superseded(rec.Epoch)
			return relay.TokenRecord{}, 0, noToken(ownerPatience,
				fmt.Errorf("connection %s has a newer owner (epoch %d, ours is %d)",
					connection, rec.Epoch, lease.Epoch()))
		}
		if in := rec.Intent; in != nil && in.Owner != t.nonce && !t.cfg.Exclusive {
			// A deadline is never further away than its own length, because clocks differ and
			// change.
			if left := min(in.Deadline.Sub(now), in.Deadline.Sub(in.StartedAt)); left > 0 {
				return relay.TokenRecord{}, 0, noToken(left,
					fmt.Errorf("connection %s is being refreshed by another process", connection))
			}
		}
		rec.Epoch = lease.Epoch()
		rec.Intent = &relay.RefreshIntent{
			ID: uuid.NewString(), Owner: t.nonce,
			StartedAt: now.UTC(), Deadline: now.Add(t.cfg.Timeout + storeSlack).UTC(),
		}
		revision, err = t.save(t.starts, connection, rec, revision)
		if err == nil {
			return rec, revision, nil
		}
		if !errors.Is(err, relay.ErrTokenChanged) {
			return relay.TokenRecord{}, 0,
				fmt.Errorf("storing the intent to refresh connection %s: %w", connection, err)
		}
	}
	return relay.TokenRecord{}, 0,
		fmt.Errorf("storing the intent to refresh connection %s: %w", connection, relay.ErrTokenChanged)
}

// settle stores the result of a refresh. It repeats that until the result is stored or of no use,
// or the process ends. used is the record that was announced.
func (t *Tokens) settle(connection string, used, next relay.TokenRecord, revision uint64) error {
	for failures := 0; ; {
		_, err := t.save(t.works, connection, next, revision)
		if err == nil {
			return nil
		}
		// Refused or unclear: read what is there now.
		now, current, readErr := t.load(t.works, connection)
		switch {
		case errors.Is(readErr, relay.ErrNoToken):
			return errSuperseded
		case readErr != nil:
			err = readErr
		case sameResult(now, next):
			return nil
		case now.Generation != used.Generation || !now.RefreshToken.Equal(used.RefreshToken):
			return errSuperseded
		default:
			// The stored token is the one that was spent. Its result must replace it, even if
			// another process has written since.
			next.Epoch = max(next.Epoch, now.Epoch)
			if revision != current && errors.Is(err, relay.ErrTokenChanged) {
				revision = current
				continue
			}
			revision = current
		}
		failures++
		t.log.Error("token record not stored, trying again",
			slog.String("connection", connection), slog.Any("error", err))
		if !backoff.Sleep(t.works, retryWait(failures)/2) {
			return fmt.Errorf("storing the refreshed token of connection %s: %w", connection, t.works.Err())
		}
	}
}

// errNotOwned means that another replica refreshes the connection's tokens, or that it is unclear
// whether a lease was renewed.
var errNotOwned = errors.New("refreshing it is the work of another replica")

// notOwned returns the error for a caller that needs a fresh token of a connection that is
// refreshed elsewhere, or soon.
func notOwned(connection string) error {
	return noToken(ownerPatience,
		fmt.Errorf("connection %s has no access token that can be used: %w", connection, errNotOwned))
}

// noToken returns the error for a token that cannot be had before a time has passed.
func noToken(after time.Duration, err error) error {
	return &Error{Operation: OpToken, Outcome: Unavailable, RetryAfter: after, err: err}
}

// sameResult reports whether a record holds the result that should have been stored.
func sameResult(a, b relay.TokenRecord) bool {
	return a.Intent == nil && a.RefreshToken.Equal(b.RefreshToken) && a.AccessToken.Equal(b.AccessToken) &&
		(a.ConsentRequiredSince == nil) == (b.ConsentRequiredSince == nil)
}

func (t *Tokens) load(ctx context.Context, connection string) (relay.TokenRecord, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return t.cfg.Store.Token(ctx, connection)
}

func (t *Tokens) save(ctx context.Context, connection string, rec relay.TokenRecord, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return t.cfg.Store.SaveToken(ctx, connection, rec, revision)
}

// unanswered reports whether a refresh ended without a complete response of the token endpoint. It
// is repeated once at once, with the stored refresh token, which is the same. If the request never
// arrived, that loses nothing; if the response was lost, the vendor's refusal shows that a consent
// is needed.
func unanswered(err error) bool {
	e := errorOf(err)
	return e.Operation == OpToken && e.Outcome == Unavailable && !errors.Is(err, errNotOwned) && e.noAnswer
}

// onceMore returns the wait before that: the cause of the first failure may not be over yet.
func onceMore() time.Duration { return 250*time.Millisecond + rand.N(500*time.Millisecond) }

// retryWait returns the wait after the n-th failure in a row: 1 s doubling to 5 minutes, with 20 % of
// jitter in both directions.
func retryWait(n int) time.Duration {
	d := min(time.Second<<min(n-1, 10), 5*time.Minute)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// backingOff returns the error while a failed refresh waits to be tried again.
func backingOff(last error, wait time.Duration) error {
	outcome := OutcomeOf(last)
	if outcome == Done {
		outcome = Unavailable
	}
	return &Error{
		Operation: OpToken, Outcome: outcome, CorrelationID: CorrelationIDOf(last), RetryAfter: wait,
		err: fmt.Errorf("not tried again yet: %w", last),
	}
}
