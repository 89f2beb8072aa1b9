package relay

import (
	"log/slog"
	"slices"
	"time"
)

// Mode is which of an order's waiting events a callback gets.
type Mode string

// The modes of a callback.
const (
	ModeEvery  Mode = "every"  // each event
	ModeLatest Mode = "latest" // of the events of one order that wait, only the newest; the others end skipped
)

// Defaults and bounds of a callback's settings.
const (
	DefaultConcurrency    = 4
	MaxConcurrency        = 64
	DefaultTimeoutSeconds = 15
)

// The types of Auth.
const (
	AuthBearer = "bearer"
	AuthBasic  = "basic"
	AuthOAuth2 = "oauth2" // an access token, got by the client credentials grant
)

// Auth is what a callback's requests carry in Authorization.
type Auth struct {
	Type     string `json:"type"`
	Token    string `json:"token,omitempty"` // of AuthBearer
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// Of AuthOAuth2.
	TokenURL     string `json:"tokenUrl,omitempty"`
	ClientID     string `json:"clientId,omitempty"`
	ClientSecret string `json:"clientSecret,omitempty"`
	Scope        string `json:"scope,omitempty"`
	Audience     string `json:"audience,omitempty"`
	InForm       bool   `json:"inForm,omitempty"` // id and secret are sent in the form
}

// CallbackSecrets is the part of a callback that is encrypted at rest. Only the URL is ever
// returned, and only to callers who may change it.
type CallbackSecrets struct {
	URL     string            `json:"url"`
	Signing []SigningSecret   `json:"signing"` // newest first
	Headers map[string]string `json:"headers,omitempty"`
	Auth    *Auth             `json:"auth,omitempty"`
}

// LogValue keeps the secrets out of every log.
func (CallbackSecrets) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// String keeps the secrets out of formatted text.
func (CallbackSecrets) String() string { return "[redacted]" }

// GoString keeps the secrets out of %#v.
func (CallbackSecrets) GoString() string { return "[redacted]" }

// Disabled is why a callback gets nothing until it is resumed.
type Disabled struct {
	Reason string    `json:"reason"` // "gone" (410) or "failing" (five days)
	At     time.Time `json:"at"`
}

// Callback is a client's registration: URL, filter and secret.
type Callback struct {
	ID     string `json:"id"`
	Client string `json:"client"`
	// ClientGeneration is the client's generation when the callback was made. A later client with
	// the same id does not own the callback.
	ClientGeneration string `json:"clientGeneration"`

	ShownURL       string    `json:"shownUrl"` // what everybody may see of Secrets.URL; SetURL sets both
	Description    string    `json:"description,omitempty"`
	Filter         Filter    `json:"filter"`
	HeaderNames    []string  `json:"headerNames,omitempty"` // the names of Secrets.Headers, which may be shown
	AuthType       string    `json:"authType,omitempty"`    // the type of Secrets.Auth, which may be shown
	Concurrency    int       `json:"concurrency"`
	RatePerSecond  float64   `json:"ratePerSecond,omitempty"` // 0: no limit
	TimeoutSeconds int       `json:"timeoutSeconds"`
	Mode           Mode      `json:"mode"`
	ContentType    string    `json:"contentType"`
	StartFrom      string    `json:"startFrom,omitempty"` // as requested: "now", "earliest" or a time
	StartSeq       uint64    `json:"startSeq"`            // the resulting log position: later entries are delivered
	Paused         bool      `json:"paused,omitempty"`
	Disabled       *Disabled `json:"disabled,omitempty"`
	// Resumed counts how often the callback was resumed, or where and how it is called was changed.
	// When it rises, the owner makes everything due that waits.
	Resumed    int       `json:"resumed,omitempty"`
	Generation string    `json:"generation"` // random; a callback made again under the same id starts over
	CreatedAt  time.Time `json:"createdAt"`
	UpdatedAt  time.Time `json:"updatedAt"`
	// FilterChangedAt is when Filter was last changed. What was published before may have matched.
	FilterChangedAt time.Time `json:"filterChangedAt,omitzero"`

	Secrets CallbackSecrets `json:"-"` // the store encrypts them separately
}

// BelongsTo reports whether the callback belongs to this client, and not to an earlier one with the
// same id.
func (c Callback) BelongsTo(client Client) bool {
	return c.Client == client.ID && c.ClientGeneration == client.Generation
}

// DefaultClient is the client that the admin token acts for when it names none.
const DefaultClient = "default"

// Role is what an API key may do.
type Role string

// The roles of API keys. The admin token is not a key: it is part of the settings.
const (
	RoleRead   Role = "read"   // read only
	RoleWrite  Role = "write"  // also register and change callbacks
	RoleManage Role = "manage" // also make and remove keys of the other two roles
)

// Key is one API key of a client. Only its hash is stored.
type Key struct {
	ID string `json:"id"`
	// SHA-256 of the whole key; it carries 256 random bits, so no slow hash is needed
	Hash        []byte     `json:"hash"`
	Role        Role       `json:"role"`
	Description string     `json:"description,omitempty"`
	CreatedAt   time.Time  `json:"createdAt"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
	// MadeBy is the id of the key that made this one, "" if an administrator did. A key ends with
	// the one that made it.
	MadeBy string `json:"madeBy,omitempty"`
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
	Limits     Limits   `json:"limits,omitzero"`
	Generation string   `json:"generation"` // random; a client created again under the same id inherits nothing
	// Callbacks maps the ids of the client's callbacks, including those being created, to the time
	// (Unix seconds) at which each id was entered. An id is entered before its callback is stored
	// and removed after the callback is removed, so the map never has too few.
	Callbacks map[string]int64 `json:"callbacks,omitempty"`
	CreatedAt time.Time        `json:"createdAt"`
	UpdatedAt time.Time        `json:"updatedAt"`
	// SitesChangedAt is when Sites or AllSites were last changed.
	SitesChangedAt time.Time `json:"sitesChangedAt,omitzero"`
}

// HasKey reports whether the client has a key.
func (c Client) HasKey(id string) bool {
	return slices.ContainsFunc(c.Keys, func(k Key) bool { return k.ID == id })
}

// MaySee reports whether the client may see the events of a site. Events without a site (NoSite)
// are only for clients of all sites.
func (c Client) MaySee(site string) bool { return c.AllSites || slices.Contains(c.Sites, site) }
