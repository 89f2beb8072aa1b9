package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
func (t *Tokens) SaveToken(ctx context.Context, connection string, rec relay.TokenRecord, revision uint64) (uint64, error) {
	revision, err := t.Save(ctx, connection, rec, revision)
	if errors.Is(err, ErrConflict) {
		err = fmt.Errorf("%w: %w", relay.ErrTokenChanged, err)
	}
	return revision, err
}

type tokenCodec struct{ sealer *Sealer }

// storedToken is a token record as it lies on the disk: what is no secret stands in the clear, for
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
