package httpapi

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/go-openapi/jsonpointer"

	"github.com/audatex-relay/relay/internal/pasted"
)

// cleaner removes what was pasted along with the secrets and addresses of a request.
type cleaner struct {
	errs    []FieldError
	trimmed []string // pointers
}

func (c *cleaner) text(pointer string, value *string, kind pasted.Kind) {
	clean, trimmed, err := pasted.Clean(*value, kind)
	switch {
	case err != nil:
		c.errs = append(c.errs, at(pointer, "%s", err))
	case trimmed && clean == "": // leaving it out would have another meaning
		c.errs = append(c.errs, at(pointer, "holds nothing but white space"))
	default:
		if trimmed {
			c.trimmed = append(c.trimmed, pointer)
		}
		*value = clean
	}
}

// with returns the refused values together with other errors, one error for each value.
func (c *cleaner) with(others []FieldError) []FieldError {
	errs := c.errs
	for _, e := range others {
		if !slices.ContainsFunc(c.errs, func(refused FieldError) bool { return refused.Pointer == e.Pointer }) {
			errs = append(errs, e)
		}
	}
	return errs
}

// warn logs what was removed.
func (c *cleaner) warn(ctx context.Context, log *slog.Logger, what, id string) {
	if len(c.trimmed) > 0 {
		log.WarnContext(ctx, "white space or a byte order mark around a value of a request was taken away",
			what, id, "fields", c.trimmed)
	}
}

// cleanCallback returns the cleaned settings of a callback.
func cleanCallback(s CallbackSettings) (CallbackSettings, *cleaner) {
	c := new(cleaner)
	c.text("/url", &s.Url, pasted.Token)
	c.text("/secret", &s.Secret, pasted.Token)
	c.text("/auth/token", &s.Auth.Token, pasted.Secret)
	c.text("/auth/username", &s.Auth.Username, pasted.Secret)
	c.text("/auth/password", &s.Auth.Password, pasted.Password)
	c.text("/auth/tokenUrl", &s.Auth.TokenUrl, pasted.Token)
	c.text("/auth/clientId", &s.Auth.ClientId, pasted.Secret)
	c.text("/auth/clientSecret", &s.Auth.ClientSecret, pasted.Secret)
	c.text("/auth/audience", &s.Auth.Audience, pasted.Secret)
	s.Headers = maps.Clone(s.Headers)
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		value := s.Headers[name]
		c.text("/headers/"+jsonpointer.Escape(name), &value, pasted.Secret)
		s.Headers[name] = value
	}
	return s, c
}

// cleanSecret cleans the only secret of a request.
func (a *API) cleanSecret(ctx context.Context, pointer string, secret *string, what, id string) error {
	var c cleaner
	if c.text(pointer, secret, pasted.Token); len(c.errs) > 0 {
		return invalid(c.errs...)
	}
	c.warn(ctx, a.c.Log, what, id)
	return nil
}
