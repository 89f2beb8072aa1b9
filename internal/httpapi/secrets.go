package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signature"
)

// secretOverlap is how long a replaced secret still signs in addition to the new one.
const secretOverlap = 24 * time.Hour

// RotateSecret implements POST /v1/callbacks/{id}/rotate-secret.
func (a *API) RotateSecret(w http.ResponseWriter, r *http.Request, id Id, _ RotateSecretParams) {
	a.do(w, r, func(ctx context.Context, c caller) (reply, error) {
		body, err := bodyOf[RotateSecret](r)
		if err != nil {
			return reply{}, err
		}
		if err := a.cleanSecret(ctx, "/secret", &body.Secret, "callback", id); err != nil {
			return reply{}, err
		}
		now := time.Now().UTC()
		var secret string
		cb, revision, err := a.changeCallback(ctx, c, id, "", func(cb relay.Callback) (relay.Callback, error) {
			secret, err = rotate(&cb, body.Secret, exchangeOf(r).maker, now)
			cb.UpdatedAt = now
			return cb, err
		})
		if err != nil {
			return reply{}, err
		}
		rotated := RotatedSecret{Secret: secret}
		if signing := cb.Secrets.Signing; len(signing) > 1 {
			rotated.PreviousExpiresAt = timeOf(signing[1].ExpiresAt)
		}
		return reply{revision: revision, body: rotated}, nil
	})
}

// rotate adds a secret in front of those that sign; "" makes one. The previous secret signs for
// another day, older ones end now: a receiver that is two secrets behind has been warned twice. If
// the secret is the present one, or one that this request has made before, nothing changes.
func rotate(cb *relay.Callback, given string, m maker, now time.Time) (string, error) {
	secret, err := signingSecret(given, m)
	if err != nil {
		return "", err
	}
	for i, signing := range cb.Secrets.Signing {
		if signing.Secret == secret && (i == 0 || given == "") {
			return secret, nil
		}
	}
	signing := []relay.SigningSecret{{Secret: secret, CreatedAt: now}}
	if len(cb.Secrets.Signing) > 0 {
		before := cb.Secrets.Signing[0]
		before.ExpiresAt = new(now.Add(secretOverlap))
		signing = append(signing, before)
	}
	cb.Secrets.Signing = signing
	return secret, nil
}

// signingSecret returns the given secret if it is valid, or a new one if none is given.
func signingSecret(given string, m maker) (string, error) {
	if given == "" {
		return signature.SecretOf(m.bytes("signing secret", signature.NewSecretBytes)).Reveal(), nil
	}
	if _, err := signature.ParseSecret(given); err != nil {
		return "", invalid(at("/secret", "%s", err))
	}
	return given, nil
}
