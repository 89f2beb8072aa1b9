package relay

import (
	"log/slog"
	"time"
)

// Mode says which of an order's waiting events a callback gets.
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
	MaxTimeoutSeconds     = 60
	MaxRatePerSecond      = 1000
)

// Auth is what a callback's requests carry in Authorization.
type Auth struct {
	Type     string `json:"type"` // "bearer" or "basic"
	Token    string `json:"token,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// SigningSecret is one whsec_ secret; During a rotation the older one signs too until its expiry.
type SigningSecret struct {
	Secret    string     `json:"secret"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
}

// CallbackSecrets is the part of a callback that is encrypted at rest. Of all of it only the URL is ever returned, to those who may
// change it.
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

// Disabled says why a callback no longer gets anything until it is resumed.
type Disabled struct {
	Reason string    `json:"reason"` // "gone" (410) or "failing" (five days)
	At     time.Time `json:"at"`
}

// Callback is a client's registration: URL, filter and secret.
type Callback struct {
	ID     string `json:"id"`
	Client string `json:"client"`
	// ClientGeneration is that of its client when it was made: it belongs to no other client that has the id later.
	ClientGeneration string `json:"clientGeneration"`

	ShownURL       string    `json:"shownUrl"` // what everybody may see of Secrets.URL; SetURL sets both
	Description    string    `json:"description,omitempty"`
	Filter         Filter    `json:"filter"`
	HeaderNames    []string  `json:"headerNames,omitempty"` // what reads may show of Headers
	AuthType       string    `json:"authType,omitempty"`    // what reads may show of Auth
	Concurrency    int       `json:"concurrency"`
	RatePerSecond  float64   `json:"ratePerSecond,omitempty"` // 0: no limit
	TimeoutSeconds int       `json:"timeoutSeconds"`
	Mode           Mode      `json:"mode"`
	ContentType    string    `json:"contentType"`
	StartFrom      string    `json:"startFrom,omitempty"` // as asked: "now", "earliest" or a time
	StartSeq       uint64    `json:"startSeq"`            // the log position that came of it: entries above are delivered
	Paused         bool      `json:"paused,omitempty"`
	Disabled       *Disabled `json:"disabled,omitempty"`
	// Resumed counts operator's resumes: the owner sees the number rise and tries everything now.
	Resumed    int       `json:"resumed,omitempty"`
	Generation string    `json:"generation"` // random; a callback made anew under an old id starts anew
	CreatedAt  time.Time `json:"createdAt"`
	UpdatedAt  time.Time `json:"updatedAt"`

	Secrets CallbackSecrets `json:"-"` // sealed apart by the store
}

// BelongsTo reports whether the callback is one of this client's, and not of one before it under the same id.
func (c Callback) BelongsTo(client Client) bool {
	return c.Client == client.ID && c.ClientGeneration == client.Generation
}

// SigningSecrets answers the secrets that sign at now, newest first.
func (c Callback) SigningSecrets(now time.Time) []string {
	var secrets []string
	for _, s := range c.Secrets.Signing {
		if s.ExpiresAt == nil || now.Before(*s.ExpiresAt) {
			secrets = append(secrets, s.Secret)
		}
	}
	return secrets
}
