package relay

import (
	"slices"
	"time"
)

// DefaultClient is whom the admin token acts for when it names no client.
const DefaultClient = "default"

// Role says what an API key may do.
type Role string

// The roles of API keys. The admin token is not a key: it stands in the settings.
const (
	RoleRead  Role = "read"  // look, never change
	RoleWrite Role = "write" // also register and change callbacks
)

// Key is one API key of a client: only a hash of it is stored.
type Key struct {
	ID          string     `json:"id"`
	Hash        []byte     `json:"hash"` // SHA-256 of the whole key; it carries 256 random bits, so no slow hash is needed
	Role        Role       `json:"role"`
	Description string     `json:"description,omitempty"`
	CreatedAt   time.Time  `json:"createdAt"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
}

// Expired reports whether the key has ended at now.
func (k Key) Expired(now time.Time) bool { return k.ExpiresAt != nil && !now.Before(*k.ExpiresAt) }

// Client is a BMS product or service: it owns keys and callbacks, sees only its own, and is limited to sites.
type Client struct {
	ID          string `json:"id"`
	Description string `json:"description,omitempty"`
	// Sites limits the client. AllSites is said in full, never by an empty list: a forgotten list must not open everything.
	Sites      []string `json:"sites,omitempty"`
	AllSites   bool     `json:"allSites,omitempty"`
	Keys       []Key    `json:"keys,omitempty"`
	Generation string   `json:"generation"` // random; a client made again under an old id has nothing of the one before
	// Callbacks are the ids of all its callbacks, and of those that are being made, with the time (Unix seconds) at which each was
	// entered. An id is entered before its callback is stored and taken out after it was removed, so the number here is never too low.
	Callbacks map[string]int64 `json:"callbacks,omitempty"`
	CreatedAt time.Time        `json:"createdAt"`
	UpdatedAt time.Time        `json:"updatedAt"`
}

// MaySee reports whether the client may see what happens at site. Events of no site (NoSite) are only for clients of all sites.
func (c Client) MaySee(site string) bool { return c.AllSites || slices.Contains(c.Sites, site) }
