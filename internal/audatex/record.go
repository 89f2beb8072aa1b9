package audatex

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// TokenStore keeps the token record of each connection. The record is the truth: it is read for every call, so that a
// refresh token put by an operator counts at once.
type TokenStore interface {
	// Token returns a connection's record and its revision; ErrNoToken if there is none.
	Token(ctx context.Context, connection string) (TokenRecord, uint64, error)
	// SaveToken replaces the record if it still has the given revision and returns the new one; ErrConflict otherwise.
	SaveToken(ctx context.Context, connection string, rec TokenRecord, revision uint64) (uint64, error)
}

// What a TokenStore answers, possibly wrapped.
var (
	ErrNoToken  = errors.New("connection has no token")
	ErrConflict = errors.New("token record has changed")
)

// TokenRecord is what is kept of a connection's consent. Whoever puts a new refresh token replaces the whole record by
// {RefreshToken, Generation, ConsentAt}: everything else belongs to the token before it.
type TokenRecord struct {
	AccessToken  Secret
	RefreshToken Secret
	// ExpiresAt and RefreshedAt are the access token's life.
	ExpiresAt, RefreshedAt time.Time
	// Intent is set while a refresh is under way, or was when its process died.
	Intent *RefreshIntent
	// ConsentRequiredSince is set when the vendor refused the refresh token for good; Reason says why.
	ConsentRequiredSince *time.Time
	Reason               string
	// ConsentAt is when the consent came that the tokens descend from: what was refused before may be granted since.
	// ConsentID names it if it was given in a browser; it is empty if an operator has put the refresh token.
	ConsentID string
	ConsentAt time.Time
	// Epoch is that of the shard's lease under which the record was written.
	Epoch uint64
	// Generation tells one registration of the connection from a later one of the same name.
	Generation string
}

// RefreshIntent says that RefreshToken may be spent: a refresh was started and its answer is not stored.
type RefreshIntent struct {
	ID string
	// Owner is the process that refreshes, by its Tokens' random id.
	Owner     string
	StartedAt time.Time
	// Deadline is when another process need not wait any longer for the result.
	Deadline time.Time
}

// ConsentRequiredError: the vendor refused the refresh token; only a new consent helps. Its outcome is Unauthorised.
type ConsentRequiredError struct {
	Connection string
	Since      time.Time
	Reason     string
}

// Error names the connection and since when.
func (e *ConsentRequiredError) Error() string {
	return fmt.Sprintf("connection %s needs a new consent since %s: %s", e.Connection, e.Since.Format(time.RFC3339), e.Reason)
}

// consentError is the error of a record whose refresh token was refused, nil for any other.
func consentError(connection string, rec TokenRecord) error {
	if rec.ConsentRequiredSince == nil {
		return nil
	}
	return &ConsentRequiredError{Connection: connection, Since: *rec.ConsentRequiredSince, Reason: rec.Reason}
}
