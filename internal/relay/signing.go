package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"
)

// Bounds of the rotation of a callback's signing secrets.
const (
	// MaxSigningSecrets is how many secrets of a callback may sign at the same time, the present one
	// included. Each adds a signature of 47 bytes to every attempt.
	MaxSigningSecrets = 5

	DefaultSecretOverlap = 24 * time.Hour
	MaxSecretOverlap     = 30 * 24 * time.Hour
)

// Why the signing secrets of a callback cannot be changed as requested.
var (
	ErrTooManySecrets = errors.New("as many secrets sign as may sign at the same time")
	ErrPresentSecret  = errors.New("the secret is the present one")
	ErrNoSecret       = errors.New("no secret that signs has this fingerprint")
)

// SigningSecret is one whsec_ secret. After a rotation the older secrets sign as well, each until
// it expires.
type SigningSecret struct {
	Secret    string     `json:"secret"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty"` // nil: the present one
}

// Fingerprint names a secret without giving it away: the first 16 hexadecimal digits of the SHA-256
// of its text, which a receiver can work out for the secrets that it has.
func (s SigningSecret) Fingerprint() string {
	sum := sha256.Sum256([]byte(s.Secret))
	return hex.EncodeToString(sum[:8])
}

// Present returns the present secret, empty if there is none.
func (c CallbackSecrets) Present() string {
	if len(c.Signing) == 0 {
		return ""
	}
	return c.Signing[0].Secret
}

// SigningAt returns the secrets that sign at a time, newest first.
func (c CallbackSecrets) SigningAt(now time.Time) []SigningSecret {
	var active []SigningSecret
	for _, s := range c.Signing {
		if s.ExpiresAt == nil || now.Before(*s.ExpiresAt) {
			active = append(active, s)
		}
	}
	return active
}

// Rotate makes a secret the present one. The one before signs until overlap has passed, and older
// ones as long as they would have. If the secret is the present one, nothing changes.
func (c *CallbackSecrets) Rotate(secret string, overlap time.Duration, now time.Time) error {
	if c.Present() == secret {
		return nil
	}
	signing := []SigningSecret{{Secret: secret, CreatedAt: now}}
	for _, s := range c.SigningAt(now) {
		if s.ExpiresAt == nil {
			s.ExpiresAt = new(now.Add(overlap))
		}
		switch {
		case s.Secret == secret: // an older one is taken back
			signing[0].CreatedAt = s.CreatedAt
		case now.Before(*s.ExpiresAt):
			signing = append(signing, s)
		}
	}
	if len(signing) > MaxSigningSecrets {
		return ErrTooManySecrets
	}
	c.Signing = signing
	return nil
}

// EndSecret ends an older secret at once. It returns ErrPresentSecret or ErrNoSecret.
func (c *CallbackSecrets) EndSecret(fingerprint string, now time.Time) error {
	active := c.SigningAt(now)
	i := slices.IndexFunc(active, func(s SigningSecret) bool { return s.Fingerprint() == fingerprint })
	switch {
	case i < 0:
		return ErrNoSecret
	case active[i].ExpiresAt == nil:
		return ErrPresentSecret
	}
	c.Signing = slices.Delete(active, i, i+1)
	return nil
}
