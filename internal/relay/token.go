package relay

import (
	"errors"
	"time"
)

// How reading and replacing a TokenRecord end when they do not succeed, possibly wrapped.
var (
	ErrNoToken      = errors.New("connection has no token")
	ErrTokenChanged = errors.New("token record has changed")
)

// TokenRecord is what is kept of a connection's consent. A new refresh token replaces the whole
// record by {RefreshToken, Generation, ConsentAt}: everything else belongs to the token before it.
type TokenRecord struct {
	AccessToken  Secret `json:"-"` // the store encrypts the tokens separately
	RefreshToken Secret `json:"-"`
	// ExpiresAt and RefreshedAt are the access token's life.
	ExpiresAt   time.Time `json:"expiresAt"`
	RefreshedAt time.Time `json:"refreshedAt"`
	// Intent is set while a refresh is under way, or was when its process died.
	Intent *RefreshIntent `json:"intent,omitempty"`
	// ConsentRequiredSince is set when the vendor refused the refresh token for good. Reason is
	// why.
	ConsentRequiredSince *time.Time `json:"consentRequiredSince,omitempty"`
	Reason               string     `json:"reason,omitempty"`
	// ConsentAt is when the consent came that the tokens descend from: what was refused before may
	// be granted since. ConsentID names it if it was given in a browser; it is empty if an operator
	// has put the refresh token.
	ConsentID string    `json:"consentId,omitempty"`
	ConsentAt time.Time `json:"consentAt,omitzero"`
	// Epoch is that of the shard's lease under which the record was written.
	Epoch uint64 `json:"epoch"`
	// Generation distinguishes one registration of the connection from a later one of the same
	// name.
	Generation string `json:"generation"`
}

// RefreshIntent records that RefreshToken may be spent: a refresh was started and its answer is not
// stored.
type RefreshIntent struct {
	ID string
	// Owner is the process that refreshes, by its Tokens' random id.
	Owner     string
	StartedAt time.Time
	// Deadline is when another process need not wait any longer for the result.
	Deadline time.Time
}
