package relay

import (
	"slices"
	"time"
)

// DefaultClient is the client that the admin token acts for when it names none.
const DefaultClient = "default"

// Role is what an API key may do.
type Role string

// The roles of API keys. The admin token is not a key: it is part of the settings.
const (
	RoleRead  Role = "read"  // read only
	RoleWrite Role = "write" // also register and change callbacks
)

// Key is one API key of a client. Only its hash is stored.
type Key struct {
	ID          string     `json:"id"`
	Hash        []byte     `json:"hash"` // SHA-256 of the whole key; it carries 256 random bits, so no slow hash is needed
	Role        Role       `json:"role"`
	Description string     `json:"description,omitempty"`
	CreatedAt   time.Time  `json:"createdAt"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
}

// Expired reports whether the key has expired at now.
func (k Key) Expired(now time.Time) bool { return k.ExpiresAt != nil && !now.Before(*k.ExpiresAt) }

// Client is a BMS product or service. It owns keys and callbacks, sees only its own, and is limited
// to some sites.
type Client struct {
	ID          string `json:"id"`
	Description string `json:"description,omitempty"`
	// Sites are the sites that the client may see. To allow all of them AllSites must be set: an
	// empty list, which may just have been forgotten, allows none.
	Sites      []string `json:"sites,omitempty"`
	AllSites   bool     `json:"allSites,omitempty"`
	Keys       []Key    `json:"keys,omitempty"`
	Generation string   `json:"generation"` // random; a client created again under the same id inherits nothing
	// Callbacks maps the ids of the client's callbacks, including those being created, to the time
	// (Unix seconds) at which each id was entered. An id is entered before its callback is stored
	// and removed after the callback is removed, so the map never has too few.
	Callbacks map[string]int64 `json:"callbacks,omitempty"`
	CreatedAt time.Time        `json:"createdAt"`
	UpdatedAt time.Time        `json:"updatedAt"`
}

// MaySee reports whether the client may see the events of a site. Events without a site (NoSite)
// are only for clients of all sites.
func (c Client) MaySee(site string) bool { return c.AllSites || slices.Contains(c.Sites, site) }
