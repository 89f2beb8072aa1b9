package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Tokens holds each connection's token pair, encrypted. It implements audatex.TokenStore.
//
// Its writes do not follow the rule of PutOwned: the vendor's response to a refresh is written even
// over a document of a higher epoch. The old refresh token is spent, and stepping back would lose
// the only new one.
type Tokens struct{ *Bucket[relay.TokenRecord] }

// Token returns the connection's record and its revision; relay.ErrNoToken if there is none.
func (t *Tokens) Token(ctx context.Context, connection string) (relay.TokenRecord, uint64, error) {
	rec, rev, err := t.Get(ctx, connection)
	if errors.Is(err, ErrNotFound) {
		err = relay.ErrNoToken
	}
	return rec, rev, err
}

// SaveToken stores the record over a revision (0: there is none yet); relay.ErrTokenChanged if it
// is at another one.
func (t *Tokens) SaveToken(
	ctx context.Context, connection string, rec relay.TokenRecord, revision uint64,
) (uint64, error) {
	revision, err := t.Save(ctx, connection, rec, revision)
	if errors.Is(err, ErrConflict) {
		err = fmt.Errorf("%w: %w", relay.ErrTokenChanged, err)
	}
	return revision, err
}

type tokenCodec struct{ sealer *Sealer }

// storedToken is a token record as it is on the disk: what is no secret is in the clear, for
// operators.
type storedToken struct {
	relay.TokenRecord
	Sealed []byte `json:"sealed"`
}

type sealedToken struct {
	Access  string `json:"access"`
	Refresh string `json:"refresh"`
}

func (c tokenCodec) encode(key string, r relay.TokenRecord) ([]byte, error) {
	sealed, err := c.sealer.seal("tokens "+key, sealedToken{r.AccessToken.Reveal(), r.RefreshToken.Reveal()})
	if err != nil {
		return nil, err
	}
	return relay.Encode(storedToken{r, sealed})
}

func (c tokenCodec) decode(key string, b []byte) (relay.TokenRecord, error) {
	var s storedToken
	if err := json.Unmarshal(b, &s); err != nil {
		return relay.TokenRecord{}, err
	}
	var secret sealedToken
	if err := c.sealer.open("tokens "+key, s.Sealed, &secret); err != nil {
		return relay.TokenRecord{}, err
	}
	s.AccessToken, s.RefreshToken = relay.NewSecret(secret.Access), relay.NewSecret(secret.Refresh)
	return s.TokenRecord, nil
}

// RequestTTL is how long a request with an Idempotency-Key is remembered after the last thing that
// happened to it.
const RequestTTL = 24 * time.Hour

// IdempotentRequest is a request that may be repeated and must then have the same result.
type IdempotentRequest struct {
	Caller string `json:"caller"` // whose it is
	// RunningUntil is until when the process that runs the request is left alone. The zero time
	// means that none does.
	RunningUntil   time.Time `json:"runningUntil"`
	RequestSecrets `json:"-"`
}

// RequestSecrets is what is encrypted of a request. The response may hold a secret that is shown
// once. The seed of the request's secrets is as good as the secrets. A fingerprint of a short body
// reveals the body.
type RequestSecrets struct {
	// Fingerprint is what the request was. Seed is what the process that runs it makes ids and
	// secrets from, again if need be.
	Fingerprint []byte        `json:"fingerprint"`
	Seed        []byte        `json:"seed"`
	Answer      *StoredAnswer `json:"answer,omitempty"` // nil: it is not known to have succeeded
}

// StoredAnswer is the response to a request.
type StoredAnswer struct {
	Status      int    `json:"status"`
	ETag        string `json:"etag,omitempty"`
	Location    string `json:"location,omitempty"`
	Made        string `json:"made,omitempty"` // the path of what was made, for the audit; empty: Location
	ContentType string `json:"contentType,omitempty"`
	Body        []byte `json:"body,omitempty"`
}

// RequestSize is what is counted of an IdempotentRequest, without decrypting anything.
type RequestSize struct {
	Caller string
	Bytes  int // of what is sealed
}

type storedRequest struct {
	IdempotentRequest
	Sealed []byte `json:"sealed"`
}

type requestCodec struct{ sealer *Sealer }

func (c requestCodec) encode(key string, r IdempotentRequest) ([]byte, error) {
	sealed, err := c.sealer.seal("request "+key, r.RequestSecrets)
	if err != nil {
		return nil, err
	}
	return relay.Encode(storedRequest{r, sealed})
}

func (c requestCodec) decode(key string, b []byte) (IdempotentRequest, error) {
	var stored storedRequest
	err := json.Unmarshal(b, &stored)
	if err == nil {
		err = c.sealer.open("request "+key, stored.Sealed, &stored.RequestSecrets)
	}
	return stored.IdempotentRequest, err
}

type requestSizeCodec struct{ jsonCodec[RequestSize] }

func (requestSizeCodec) decode(_ string, b []byte) (RequestSize, error) {
	var stored storedRequest
	err := json.Unmarshal(b, &stored)
	return RequestSize{stored.Caller, len(stored.Sealed)}, err
}
