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
type Tokens struct{ bucket *Bucket[relay.TokenRecord] }

// Token returns the connection's record and its revision; relay.ErrNoToken if there is none.
func (t *Tokens) Token(ctx context.Context, connection string) (relay.TokenRecord, uint64, error) {
	rec, rev, err := t.bucket.Get(ctx, connection)
	if errors.Is(err, ErrNotFound) {
		err = relay.ErrNoToken
	}
	return rec, rev, err
}

// SaveToken stores the record over a revision (0: there is none yet); relay.ErrTokenChanged if it
// is at another one.
func (t *Tokens) SaveToken(ctx context.Context, connection string, rec relay.TokenRecord, revision uint64) (uint64, error) {
	var err error
	if revision == 0 {
		revision, err = t.bucket.Create(ctx, connection, rec)
	} else {
		revision, err = t.bucket.Update(ctx, connection, rec, revision)
	}
	if errors.Is(err, ErrConflict) {
		err = fmt.Errorf("%w: %w", relay.ErrTokenChanged, err)
	}
	return revision, err
}

// Delete forgets the connection's tokens.
func (t *Tokens) Delete(ctx context.Context, connection string) error {
	return t.bucket.Delete(ctx, connection, 0)
}

// DeleteAt forgets the connection's tokens if they are at a revision.
func (t *Tokens) DeleteAt(ctx context.Context, connection string, revision uint64) error {
	return t.bucket.Delete(ctx, connection, revision)
}

type tokenCodec struct{ sealer *Sealer }

// storedToken is a token record as it lies on the disk: what is no secret stands in the clear, for
// operators.
type storedToken struct {
	Epoch                uint64               `json:"epoch"`
	Generation           string               `json:"generation"`
	ExpiresAt            time.Time            `json:"expiresAt"`
	RefreshedAt          time.Time            `json:"refreshedAt"`
	Intent               *relay.RefreshIntent `json:"intent,omitempty"`
	ConsentRequiredSince *time.Time           `json:"consentRequiredSince,omitempty"`
	Reason               string               `json:"reason,omitempty"`
	ConsentID            string               `json:"consentId,omitempty"`
	ConsentAt            time.Time            `json:"consentAt,omitzero"`
	Sealed               []byte               `json:"sealed"`
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
	return relay.Encode(storedToken{r.Epoch, r.Generation, r.ExpiresAt, r.RefreshedAt, r.Intent, r.ConsentRequiredSince, r.Reason, r.ConsentID, r.ConsentAt, sealed})
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
	return relay.TokenRecord{
		AccessToken: relay.NewSecret(secret.Access), RefreshToken: relay.NewSecret(secret.Refresh), ExpiresAt: s.ExpiresAt,
		RefreshedAt: s.RefreshedAt, Intent: s.Intent, ConsentRequiredSince: s.ConsentRequiredSince, Reason: s.Reason,
		ConsentID: s.ConsentID, ConsentAt: s.ConsentAt, Epoch: s.Epoch, Generation: s.Generation,
	}, nil
}
