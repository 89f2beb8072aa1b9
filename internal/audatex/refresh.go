package audatex

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// storeTimeout bounds one read or write of the token record.
	storeTimeout = 10 * time.Second
	// storeSlack is what a successor allows, beyond the request's own timeout, for the result to be stored.
	storeSlack = 15 * time.Second
	// sendSlack is how much of an intent's duration may have gone by when its request is sent.
	sendSlack = 5 * time.Second
	// ownerPatience is when whoever does not own a connection may look for its token again.
	ownerPatience = 5 * time.Second
)

// errSuperseded: the record changed under a refresh in a way that makes its result worthless (a new refresh token was
// put, the connection was deleted). Whoever waited looks again.
var errSuperseded = errors.New("token record was replaced during the refresh")

// refresh is one refresh: budget, intent, request, result stored. What may be repeated is repeated by a later flight,
// after its backoff; only storing a result is retried here, because the result exists nowhere else.
func (t *Tokens) refresh(connection string) (relay.Secret, error) {
	// The budget first: an intent should be followed by its request, not by a long wait.
	in, err := t.host.enter(t.starts, OpToken, PriorityRefresh, connection)
	if err != nil {
		return relay.Secret{}, err
	}
	defer in.leave()
	rec, revision, err := t.announce(connection)
	if err != nil {
		return relay.Secret{}, err
	}
	if rec.Intent == nil { // refreshed by somebody else in the meantime
		return rec.AccessToken, nil
	}
	log := t.log.With(slog.String("connection", connection))
	// A process that was suspended here sends nothing: its successor may have used the refresh token since. The intent stays.
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
		// The refresh token is stored whatever else came of it: it exists nowhere else, and the one before may be spent.
		next.AccessToken, next.RefreshToken = got.access, got.refresh
		next.RefreshedAt, next.ExpiresAt = got.at, got.expires
	case errors.Is(failed, errInvalidGrant):
		now := time.Now().UTC()
		next.AccessToken = relay.Secret{}
		next.ConsentRequiredSince, next.Reason = &now, "the vendor refused the refresh token (invalid_grant)"
	default:
		// Spent or not, nobody knows: the intent stays.
		return relay.Secret{}, t.notRefreshed(log, connection, failed)
	}
	if err := t.settle(connection, rec, next, revision); err != nil {
		t.cfg.Metrics.refresh("not-stored")
		log.Error("result of a token refresh was not stored", slog.String("correlation_id", got.correlationID), slog.Any("error", err))
		return relay.Secret{}, err
	}
	if !got.refresh.Empty() && failed != nil { // the token that is stored now waits as long as the one before would have
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
	log.Debug("access token refreshed", slog.String("correlation_id", got.correlationID), slog.Time("expires_at", next.ExpiresAt))
	return next.AccessToken, nil
}

// notRefreshed reports a refresh that brought no access token.
func (t *Tokens) notRefreshed(log *slog.Logger, connection string, err error) error {
	t.cfg.Metrics.refresh(OutcomeOf(err).String())
	log.Warn("access token not refreshed", slog.String("outcome", OutcomeOf(err).String()),
		slog.String("correlation_id", CorrelationIDOf(err)), slog.Any("error", err))
	return fmt.Errorf("refreshing the token of connection %s: %w", connection, err)
}

// announce stores the intent to refresh and returns the record with it. A record without an intent is one that somebody
// else has refreshed.
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
			return relay.TokenRecord{}, 0, &Error{
				Operation: OpToken, Outcome: Unavailable, RetryAfter: ownerPatience,
				err: fmt.Errorf("connection %s has a newer owner (epoch %d, ours is %d)", connection, rec.Epoch, lease.Epoch()),
			}
		}
		if in := rec.Intent; in != nil && in.Owner != t.nonce && !t.cfg.Exclusive {
			// A deadline is never further away than its own length: clocks differ and jump.
			if left := min(in.Deadline.Sub(now), in.Deadline.Sub(in.StartedAt)); left > 0 {
				return relay.TokenRecord{}, 0, &Error{
					Operation: OpToken, Outcome: Unavailable, RetryAfter: left,
					err: fmt.Errorf("connection %s is being refreshed by another process", connection),
				}
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
			return relay.TokenRecord{}, 0, fmt.Errorf("storing the intent to refresh connection %s: %w", connection, err)
		}
	}
	return relay.TokenRecord{}, 0, fmt.Errorf("storing the intent to refresh connection %s: %w", connection, relay.ErrTokenChanged)
}

// settle stores the result of a refresh, however long the store refuses it, until it is stored, worthless, or the
// process ends. used is the record as it was announced.
func (t *Tokens) settle(connection string, used, next relay.TokenRecord, revision uint64) error {
	for failures := 0; ; {
		_, err := t.save(t.works, connection, next, revision)
		if err == nil {
			return nil
		}
		// Refused or unclear: look what is there now.
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
			// The stored token is the one that was spent: what came of it belongs in its place, whoever wrote since.
			next.Epoch = max(next.Epoch, now.Epoch)
			if revision != current && errors.Is(err, relay.ErrTokenChanged) {
				revision = current
				continue
			}
			revision = current
		}
		failures++
		t.log.Error("token record not stored, trying again", slog.String("connection", connection), slog.Any("error", err))
		if err := sleep(t.works, backoff(failures)/2); err != nil {
			return fmt.Errorf("storing the refreshed token of connection %s: %w", connection, err)
		}
	}
}

// errNotOwned: another replica refreshes the connection's tokens, or a renewal of the lease is unclear.
var errNotOwned = errors.New("refreshing it is the work of another replica")

// notOwned is the error of whoever needs a fresh token of a connection that is refreshed elsewhere, or soon.
func notOwned(connection string) error {
	return &Error{
		Operation: OpToken, Outcome: Unavailable, RetryAfter: ownerPatience,
		err: fmt.Errorf("connection %s has no access token that can be used: %w", connection, errNotOwned),
	}
}

// sameResult reports whether a record holds the result that was to be stored.
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

// unanswered reports whether a refresh ended without any answer of the token endpoint, or with one that was cut off. It is tried once
// more at once, with the refresh token that is stored, which is the same: one that was never read loses nothing, and of one whose
// answer was lost the vendor's refusal tells that a consent is needed.
func unanswered(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Operation == OpToken && e.Outcome == Unavailable && !errors.Is(err, errNotOwned) && e.noAnswer
}

// onceMore is the wait before that: what cut the first may not have ended yet.
func onceMore() time.Duration { return 250*time.Millisecond + rand.N(500*time.Millisecond) }

// backoff is the wait after the n-th failure in a row: 1 s doubling to 5 minutes, with a fifth of jitter either way.
func backoff(n int) time.Duration {
	d := min(time.Second<<min(n-1, 10), 5*time.Minute)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// backingOff is the error given while a failed refresh waits to be tried again.
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
