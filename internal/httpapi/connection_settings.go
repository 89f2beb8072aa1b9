package httpapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-openapi/jsonpointer"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

func (a *API) checkConnection(ctx context.Context, id string, s *ConnectionSettings) error {
	if err := a.cleanSecret(ctx, "/refreshToken", &s.RefreshToken, "connection", id); err != nil {
		return err
	}
	if s.Site == "" && len(s.Sites) == 0 {
		return invalid(at("/site", "is missing: site or sites must say which site notifications belong to"))
	}
	return checkVendorSites(s.Sites)
}

// maxVendorSite bounds a vendor's site id in a connection's table, in bytes.
const maxVendorSite = 128

// checkVendorSites refuses ids that no notification can have, as a copied table may contain, and
// ids that are the same.
func checkVendorSites(sites map[string]string) error {
	seen := make(map[string]string, len(sites))
	for _, id := range slices.Sorted(maps.Keys(sites)) {
		where := "/sites/" + jsonpointer.Escape(id)
		switch {
		case strings.TrimSpace(id) == "":
			return invalid(at(where, "is no site id of the vendor's: it is empty"))
		case len(id) > maxVendorSite:
			return invalid(at("/sites", "has a site id of more than %d bytes", maxVendorSite))
		case strings.TrimSpace(id) != id || strings.ContainsFunc(id, unicode.IsControl):
			return invalid(at(where,
				"is no site id of the vendor's: it has white space at an end, or control characters"))
		}
		folded := strings.ToLower(id)
		if first, ok := seen[folded]; ok {
			return invalid(at(where, "is the same site id of the vendor's as %s", first))
		}
		seen[folded] = id
	}
	return nil
}

// apply writes the settings into a connection.
func (s ConnectionSettings) apply(c *relay.Connection, now time.Time) {
	c.Level, c.Site, c.Sites = relay.Level(s.Level), s.Site, s.Sites
	c.PollIntervalSeconds, c.Paused, c.UpdatedAt = s.PollIntervalSeconds, s.Paused, now
	if s.RefreshToken != "" {
		c.Consent = nil
	}
}

// connectionSettings is the inverse of apply.
func connectionSettings(c relay.Connection) ConnectionSettings {
	return ConnectionSettings{
		Level: ConnectionLevel(c.Level), Site: c.Site, Sites: c.Sites,
		PollIntervalSeconds: c.PollIntervalSeconds, Paused: c.Paused,
	}
}

// putToken stores a refresh token instead of everything known of the old one.
func (a *API) putToken(ctx context.Context, c relay.Connection, refreshToken string) error {
	if refreshToken == "" {
		return nil
	}
	record := relay.TokenRecord{
		RefreshToken: relay.NewSecret(refreshToken), Generation: c.Generation, ConsentAt: time.Now().UTC(),
	}
	for try := range tries {
		rest(ctx, try)
		_, revision, err := a.c.Store.Tokens.Token(ctx, c.ID)
		if err != nil && !errors.Is(err, relay.ErrNoToken) {
			return err
		}
		if _, err = a.c.Store.Tokens.SaveToken(ctx, c.ID, record, revision); !errors.Is(err, relay.ErrTokenChanged) {
			return err
		}
	}
	return fmt.Errorf("store the refresh token of connection %s: %w", c.ID, store.ErrConflict)
}
