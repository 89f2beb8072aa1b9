package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signature"
)

// rotateSecret implements POST /v1/callbacks/{id}/rotate-secret.
func (a *API) rotateSecret(
	ctx context.Context, c caller, id Id, _ RotateSecretParams, body RotateSecret,
) (reply, error) {
	overlap, err := secretOverlap(body.Overlap)
	if err != nil {
		return reply{}, err
	}
	if err := a.cleanSecret(ctx, "/secret", &body.Secret, "callback", id); err != nil {
		return reply{}, err
	}
	now := time.Now().UTC()
	var secret, previous string
	unchanged := false // it is the present one, or this request has made it before
	cb, revision, err := a.changeCallback(ctx, c, id, "", func(cb relay.Callback) (relay.Callback, error) {
		previous = cb.Secrets.Present()
		secret, err = rotate(&cb, body.Secret, overlap, exchangeOf(ctx).maker, now)
		unchanged = secret == previous && (body.Secret != "" || overlap > 0)
		cb.UpdatedAt = now
		return cb, err
	})
	if err != nil {
		return reply{}, err
	}
	rotated := RotatedSecret{Secret: secret, Secrets: signingViews(cb.Secrets, now)}
	if len(rotated.Secrets) > 1 && (cb.Secrets.SigningAt(now)[1].Secret == previous || unchanged) {
		rotated.PreviousExpiresAt = rotated.Secrets[1].ExpiresAt
	}
	return reply{revision: revision, body: rotated}, nil
}

// endSecret implements DELETE /v1/callbacks/{id}/secrets/{fingerprint}.
func (a *API) endSecret(ctx context.Context, c caller, id Id, fingerprint string) (reply, error) {
	now := time.Now().UTC()
	_, revision, err := a.changeCallback(ctx, c, id, "", func(cb relay.Callback) (relay.Callback, error) {
		cb.UpdatedAt = now
		switch err := cb.Secrets.EndSecret(fingerprint, now); {
		case errors.Is(err, relay.ErrNoSecret):
			return cb, notFound()
		case errors.Is(err, relay.ErrPresentSecret):
			return cb, kindConflict.problem("The present secret cannot be ended. Rotate it, with overlap 0s if it " +
				"must end now.")
		}
		return cb, nil
	})
	return reply{status: http.StatusNoContent, revision: revision}, err
}

// secretOverlap returns how long a replaced secret goes on signing, as requested. The contract has
// checked that the text is a whole number and a unit.
func secretOverlap(text string) (time.Duration, error) {
	if text == "" {
		return relay.DefaultSecretOverlap, nil
	}
	unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour,
		'd': 24 * time.Hour}[text[len(text)-1]]
	n, err := strconv.Atoi(text[:len(text)-1])
	if err != nil || unit == 0 || n < 0 || time.Duration(n) > relay.MaxSecretOverlap/unit {
		return 0, invalid(at("/overlap", "must be at most 30d"))
	}
	return time.Duration(n) * unit, nil
}

// rotate makes a given secret the callback's present one; "" makes one. If the secret signs already
// because this request has made it before, nothing changes.
func rotate(cb *relay.Callback, given string, overlap time.Duration, m maker, now time.Time) (string, error) {
	secret, err := signingSecret(given, m)
	if err != nil {
		return "", err
	}
	for _, signing := range cb.Secrets.Signing {
		if given == "" && signing.Secret == secret {
			return secret, nil
		}
	}
	if err := cb.Secrets.Rotate(secret, overlap, now); errors.Is(err, relay.ErrTooManySecrets) {
		return "", kindLimit.problem("%d secrets of the callback sign. End one of the older ones first, by "+
			"DELETE /v1/callbacks/%s/secrets/{fingerprint}, or wait until one expires.", relay.MaxSigningSecrets, cb.ID)
	}
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

// signingViews returns the secrets that sign, without their text.
func signingViews(secrets relay.CallbackSecrets, now time.Time) []SigningSecret {
	return each.Of(secrets.SigningAt(now), func(s relay.SigningSecret) SigningSecret {
		return SigningSecret{Fingerprint: s.Fingerprint(), CreatedAt: s.CreatedAt, ExpiresAt: timeOf(s.ExpiresAt)}
	})
}
