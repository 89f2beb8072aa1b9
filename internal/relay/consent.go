package relay

import (
	"slices"
	"time"
)

// The limits of a consent link and of the consents begun with it.
const (
	// ConsentLinkLife is how long a link can be used after it was made.
	ConsentLinkLife = 7 * 24 * time.Hour
	// ConsentAttemptLife is how long the vendor's user may take between the button and the redirect
	// back.
	ConsentAttemptLife = 30 * time.Minute
	// MaxOpenConsents is how many consents of one link may be under way. When one more begins, the
	// oldest can no longer be completed.
	MaxOpenConsents = 10
)

// ConsentLink is what an operator sends to a site so that one of the vendor's users consents for a
// connection. It is the document in relay_consents and includes the consents begun with the link,
// so that a single compare-and-set decides which of them may proceed.
type ConsentLink struct {
	// ID is the beginning of TokenHash in hex, so that a link can be found by its token.
	ID string `json:"id"`
	// TokenHash is the SHA-256 of the token in the link's URL. The token itself is not stored.
	TokenHash []byte `json:"tokenHash"`

	Connection string `json:"connection"`
	Generation string `json:"generation"` // of the connection: a later one with the same id differs
	CreatedBy  string `json:"createdBy"`
	// Force accepts consent for a site other than the expected ones.
	Force     bool   `json:"force,omitempty"`
	ReturnURL string `json:"returnUrl,omitempty"`

	CreatedAt    time.Time  `json:"createdAt"`
	ExpiresAt    time.Time  `json:"expiresAt"`
	LastOpenedAt *time.Time `json:"lastOpenedAt,omitempty"`
	UsedAt       *time.Time `json:"usedAt,omitempty"`
	WithdrawnAt  *time.Time `json:"withdrawnAt,omitempty"`

	Attempts []ConsentAttempt `json:"attempts,omitempty"` // in the order in which they began
}

// ConsentLinkState is whether a link can be used.
type ConsentLinkState string

// The states of a link.
const (
	ConsentLinkOpen      ConsentLinkState = "open"
	ConsentLinkUsed      ConsentLinkState = "used" // consent has succeeded
	ConsentLinkExpired   ConsentLinkState = "expired"
	ConsentLinkWithdrawn ConsentLinkState = "withdrawn"
)

// State returns the link's state at a time. It does not check whether the connection still exists.
func (l ConsentLink) State(now time.Time) ConsentLinkState {
	switch {
	case l.UsedAt != nil:
		return ConsentLinkUsed
	case l.WithdrawnAt != nil:
		return ConsentLinkWithdrawn
	case !now.Before(l.ExpiresAt):
		return ConsentLinkExpired
	}
	return ConsentLinkOpen
}

// ConsentPhase is how far a consent has progressed.
type ConsentPhase string

// The phases of a consent, in order. A consent that fails goes from any of them to ConsentDone.
const (
	ConsentStarted    ConsentPhase = "started"    // the browser was sent to the vendor
	ConsentExchanging ConsentPhase = "exchanging" // the vendor's code is being spent
	ConsentPending    ConsentPhase = "pending"    // the new tokens are stored here, and not yet in use
	ConsentDone       ConsentPhase = "done"
)

// ConsentAttempt is one consent begun with a link's button.
type ConsentAttempt struct {
	// ID is the SHA-256, in hex, of the state parameter that is sent to the vendor and comes back.
	ID string `json:"id"`
	// Cookie is the SHA-256 of the cookie that the browser got.
	Cookie    []byte       `json:"cookie"`
	StartedAt time.Time    `json:"startedAt"`
	Phase     ConsentPhase `json:"phase"`
	// Worker identifies who exchanges the code or applies the tokens: the process, a dot, and a
	// random id of that one try. After Deadline another process considers the try interrupted.
	Worker   string    `json:"worker,omitempty"`
	Since    time.Time `json:"since,omitzero"` // of the try
	Deadline time.Time `json:"deadline,omitzero"`
	// GrantedAt and TokenExpiresAt are the start and the end of the access token's life, once there
	// is one.
	GrantedAt      time.Time `json:"grantedAt,omitzero"`
	TokenExpiresAt time.Time `json:"tokenExpiresAt,omitzero"`
	// Sealed holds the ConsentSecrets.
	Sealed []byte `json:"sealed,omitempty"`
	// ScopesMissing are the scopes that were requested and not granted.
	ScopesMissing []string `json:"scopesMissing,omitempty"`
	// SiteScope is set if the vendor may be asked which site the user belongs to.
	SiteScope bool           `json:"siteScope,omitempty"`
	Result    *ConsentResult `json:"result,omitempty"` // once done
}

// ConsentSecrets is the part of an attempt that is encrypted at rest.
type ConsentSecrets struct {
	Verifier string `json:"verifier,omitempty"` // PKCE's, until the code is spent
	Access   string `json:"access,omitempty"`   // while the attempt is pending
	Refresh  string `json:"refresh,omitempty"`
}

// String keeps the secrets out of formatted text.
func (ConsentSecrets) String() string { return "[redacted]" }

// GoString keeps the secrets out of %#v.
func (ConsentSecrets) GoString() string { return "[redacted]" }

// ConsentOutcome is how a consent ended. The set is closed.
type ConsentOutcome string

// The outcomes. With the first two the new tokens are in use; with all others nothing has changed.
const (
	ConsentConnected    ConsentOutcome = "connected"           // and the vendor's API accepted the token
	ConsentUnchecked    ConsentOutcome = "connected-unchecked" // the vendor could not be asked for the user or the site
	ConsentAlready      ConsentOutcome = "already"             // another consent was faster, or is newer
	ConsentDenied       ConsentOutcome = "denied"              // the user refused
	ConsentWrongSite    ConsentOutcome = "wrong-site"          // the user belongs to a site that was not expected
	ConsentScopeMissing ConsentOutcome = "scope-missing"       // the consent does not cover what the relay needs
	ConsentClient       ConsentOutcome = "client-refused"      // the vendor refuses the relay's own registration
	ConsentCode         ConsentOutcome = "code-refused"        // the code came too late, or was spent before
	ConsentToken        ConsentOutcome = "token-refused"       // the vendor's API rejected the new token
	ConsentVendor       ConsentOutcome = "vendor-unavailable"  // no usable response
	ConsentInterrupted  ConsentOutcome = "interrupted"         // the process ended before it had stored the tokens
	ConsentWithdrawn    ConsentOutcome = "withdrawn"           // the link was withdrawn meanwhile
	ConsentGone         ConsentOutcome = "connection-gone"     // the connection was removed meanwhile
)

// Succeeded reports whether the connection has the new tokens.
func (o ConsentOutcome) Succeeded() bool { return o == ConsentConnected || o == ConsentUnchecked }

// ConsentResult is how a consent ended, and what is known about the user who gave it.
type ConsentResult struct {
	Outcome ConsentOutcome `json:"outcome"`
	At      time.Time      `json:"at"`
	Found   ConsentFound   `json:"found,omitzero"`
	// CorrelationID is that of the vendor's response that decided the outcome.
	CorrelationID string `json:"correlationId,omitempty"`
}

// ConsentFound is what the vendor returned about the user who gave a consent. Fields it did not
// return are empty.
type ConsentFound struct {
	Account     string `json:"account,omitempty"` // the name of the token's owner, as the vendor has it
	SiteID      string `json:"siteId,omitempty"`
	CompanyCode string `json:"companyCode,omitempty"`
	TerminalID  string `json:"terminalId,omitempty"`
}

// Consent is the last consent that the connection's tokens came from, as it is stored with the
// connection.
type Consent struct {
	ID string    `json:"id"` // of the attempt
	At time.Time `json:"at"`
	// Checked is set if the vendor accepted the token and, where it could be asked for a site,
	// named an expected one.
	Checked bool `json:"checked"`
	ConsentFound
}

// Pending reports whether the link holds the tokens of a consent that are not in use yet. They
// exist nowhere else.
func (l ConsentLink) Pending() bool {
	return slices.ContainsFunc(l.Attempts, func(a ConsentAttempt) bool { return a.Phase == ConsentPending })
}

// consentLinkKept is how long a link is kept after it can no longer be used.
const consentLinkKept = 30 * 24 * time.Hour

// ConsentLinkLeft returns how long the document of a link that expires then is still kept.
func ConsentLinkLeft(expires, now time.Time) time.Duration {
	return max(expires.Add(consentLinkKept).Sub(now), time.Hour).Truncate(time.Second)
}
