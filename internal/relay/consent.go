package relay

import "time"

// The bounds of a link and of the consents that are begun by it.
const (
	// ConsentLinkLife is how long a link can be used after it was made.
	ConsentLinkLife = 7 * 24 * time.Hour
	// ConsentAttemptLife is how long the vendor's user may take from the button to the way back.
	ConsentAttemptLife = 30 * time.Minute
	// MaxOpenConsents is how many consents may be under way by one link. With one more the oldest can no longer be ended.
	MaxOpenConsents = 10
)

// ConsentLink is what an operator sends to a site, so that a user of the vendor gives consent for a connection. It is the
// document of relay_consents: also the consents that were begun by the link are in it, so that one compare-and-set
// decides which of them may go on.
type ConsentLink struct {
	// ID is the beginning of TokenHash in hex, so that a link is found by its token.
	ID string `json:"id"`
	// TokenHash is the SHA-256 of the token in the link's URL. The token itself is not stored.
	TokenHash []byte `json:"tokenHash"`

	Connection string `json:"connection"`
	Generation string `json:"generation"` // of the connection: a later one of the same id is another
	CreatedBy  string `json:"createdBy"`
	// Force takes consent for a site other than the expected ones.
	Force     bool   `json:"force,omitempty"`
	ReturnURL string `json:"returnUrl,omitempty"`

	CreatedAt    time.Time  `json:"createdAt"`
	ExpiresAt    time.Time  `json:"expiresAt"`
	LastOpenedAt *time.Time `json:"lastOpenedAt,omitempty"`
	UsedAt       *time.Time `json:"usedAt,omitempty"`
	WithdrawnAt  *time.Time `json:"withdrawnAt,omitempty"`

	Attempts []ConsentAttempt `json:"attempts,omitempty"` // in the order in which they were begun
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

// State returns the link's state at a time. It does not know whether the connection is still there.
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

// ConsentPhase is how far a consent has come.
type ConsentPhase string

// The phases of a consent, in their order. A consent that fails goes to ConsentDone from any of them.
const (
	ConsentStarted    ConsentPhase = "started"    // the browser was sent to the vendor
	ConsentExchanging ConsentPhase = "exchanging" // the vendor's code is being spent
	ConsentPending    ConsentPhase = "pending"    // the new tokens are stored here, and not yet in use
	ConsentDone       ConsentPhase = "done"
)

// ConsentAttempt is one consent that was begun by a link's button.
type ConsentAttempt struct {
	// ID is the SHA-256, in hex, of the state that goes to the vendor and comes back.
	ID string `json:"id"`
	// Cookie is the SHA-256 of the cookie that the browser got.
	Cookie    []byte       `json:"cookie"`
	StartedAt time.Time    `json:"startedAt"`
	Phase     ConsentPhase `json:"phase"`
	// Worker is who exchanges the code or puts the tokens to use: the process, a dot, and a random id of that one try.
	// Once Deadline is over another process takes the try for interrupted.
	Worker   string    `json:"worker,omitempty"`
	Since    time.Time `json:"since,omitzero"` // of the try
	Deadline time.Time `json:"deadline,omitzero"`
	// GrantedAt and TokenExpiresAt are the access token's life, once there is one.
	GrantedAt      time.Time `json:"grantedAt,omitzero"`
	TokenExpiresAt time.Time `json:"tokenExpiresAt,omitzero"`
	// Sealed holds the ConsentSecrets.
	Sealed []byte `json:"sealed,omitempty"`
	// ScopesMissing are those that were asked for and not granted.
	ScopesMissing []string `json:"scopesMissing,omitempty"`
	// SiteScope says that the vendor may be asked which site the user belongs to.
	SiteScope bool           `json:"siteScope,omitempty"`
	Result    *ConsentResult `json:"result,omitempty"` // once done
}

// ConsentSecrets is the part of an attempt that is encrypted at rest.
type ConsentSecrets struct {
	Verifier string `json:"verifier,omitempty"` // of PKCE, until the code is spent
	Access   string `json:"access,omitempty"`   // while the attempt is pending
	Refresh  string `json:"refresh,omitempty"`
}

// String keeps the secrets out of formatted text.
func (ConsentSecrets) String() string { return "[redacted]" }

// GoString keeps the secrets out of %#v.
func (ConsentSecrets) GoString() string { return "[redacted]" }

// ConsentOutcome is how a consent ended. It is a closed set.
type ConsentOutcome string

// The outcomes. With the first two the new tokens are in use; otherwise nothing has changed.
const (
	ConsentConnected    ConsentOutcome = "connected"           // and the vendor's API took the token
	ConsentUnchecked    ConsentOutcome = "connected-unchecked" // the vendor could not be asked for the user or the site
	ConsentAlready      ConsentOutcome = "already"             // another consent was faster, or is newer
	ConsentDenied       ConsentOutcome = "denied"              // the user did not allow it
	ConsentWrongSite    ConsentOutcome = "wrong-site"          // the user belongs to a site that was not expected
	ConsentScopeMissing ConsentOutcome = "scope-missing"       // the consent does not cover what the relay needs
	ConsentClient       ConsentOutcome = "client-refused"      // the vendor refuses the relay's own registration
	ConsentCode         ConsentOutcome = "code-refused"        // the code was too late, or spent
	ConsentToken        ConsentOutcome = "token-refused"       // the vendor's API refuses the new token
	ConsentVendor       ConsentOutcome = "vendor-unavailable"  // no answer that could be used
	ConsentInterrupted  ConsentOutcome = "interrupted"         // the process ended before it had stored the tokens
	ConsentWithdrawn    ConsentOutcome = "withdrawn"           // the link was withdrawn meanwhile
	ConsentGone         ConsentOutcome = "connection-gone"     // the connection was removed meanwhile
)

// Succeeded reports whether the connection has the new tokens.
func (o ConsentOutcome) Succeeded() bool { return o == ConsentConnected || o == ConsentUnchecked }

// ConsentResult is how a consent ended and what was found out about who gave it.
type ConsentResult struct {
	Outcome ConsentOutcome `json:"outcome"`
	At      time.Time      `json:"at"`
	Found   ConsentFound   `json:"found,omitzero"`
	// CorrelationID of the answer of the vendor that decided it.
	CorrelationID string `json:"correlationId,omitempty"`
}

// ConsentFound is what the vendor says of who has given a consent; what it did not say is empty.
type ConsentFound struct {
	Account     string `json:"account,omitempty"` // who the token is, in the vendor's words
	SiteID      string `json:"siteId,omitempty"`
	CompanyCode string `json:"companyCode,omitempty"`
	TerminalID  string `json:"terminalId,omitempty"`
}

// Consent is the last consent that a connection's tokens came of, as it is kept with the connection.
type Consent struct {
	ID string    `json:"id"` // of the attempt
	At time.Time `json:"at"`
	// Checked says that the vendor took the token, and named an expected site where it could be asked for one.
	Checked bool `json:"checked"`
	ConsentFound
}

// Pending reports whether the link holds tokens of a consent that are not in use yet: they exist nowhere else.
func (l ConsentLink) Pending() bool {
	for _, a := range l.Attempts {
		if a.Phase == ConsentPending {
			return true
		}
	}
	return false
}

// consentLinkKept is how long a link is remembered after it can no longer be used.
const consentLinkKept = 30 * 24 * time.Hour

// ConsentLinkLeft is how long the document of a link stays from now on: until it is of no interest any more.
func ConsentLinkLeft(expires, now time.Time) time.Duration {
	return max(expires.Add(consentLinkKept).Sub(now), time.Hour).Truncate(time.Second)
}
