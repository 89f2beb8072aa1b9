package audatex

import (
	"context"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// TokenStore stores the token record of each connection. The record is read for every call, so that
// a refresh token entered by an operator is used at once.
type TokenStore interface {
	// Token returns a connection's record and its revision, or relay.ErrNoToken.
	Token(ctx context.Context, connection string) (relay.TokenRecord, uint64, error)
	// SaveToken replaces the record if it still has the given revision, and returns the new
	// revision; otherwise it returns relay.ErrTokenChanged.
	SaveToken(ctx context.Context, connection string, rec relay.TokenRecord, revision uint64) (uint64, error)
}

// ConsentRequiredError means that the vendor refused the refresh token; only a new consent helps.
// Its outcome is Unauthorised.
type ConsentRequiredError struct {
	Connection string
	Since      time.Time
	Reason     string
}

// Error returns the connection, since when, and the reason.
func (e *ConsentRequiredError) Error() string {
	return fmt.Sprintf("connection %s needs a new consent since %s: %s", e.Connection, e.Since.Format(time.RFC3339),
		e.Reason)
}

// consentError returns the error for a record whose refresh token was refused, nil for any other.
func consentError(connection string, rec relay.TokenRecord) error {
	if rec.ConsentRequiredSince == nil {
		return nil
	}
	return &ConsentRequiredError{Connection: connection, Since: *rec.ConsentRequiredSince, Reason: rec.Reason}
}
