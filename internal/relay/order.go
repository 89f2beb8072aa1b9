package relay

import (
	"encoding/json"
	"time"
)

// Snapshot is an order as the vendor returned it at one time.
type Snapshot struct {
	Order  json.RawMessage `json:"order"` // the vendor's JSON, every field and digit as it came
	ReadAt time.Time       `json:"readAt"`
}

// OrderState is the document in relay_orders. It is used to find out what changed, and to publish
// exactly once.
type OrderState struct {
	Site        string          `json:"site"`
	ID          string          `json:"id"`
	Order       json.RawMessage `json:"order,omitempty"`
	ReadAt      time.Time       `json:"readAt"`
	Status      string          `json:"status,omitempty"`
	Revision    int             `json:"revision"`    // number of events of the order so far
	Sequence    uint64          `json:"sequence"`    // of the last event: microseconds
	LogPosition uint64          `json:"logPosition"` // stream sequence of the last event
	// Published is the last inbox entry that has an event, per connection (see PackEntry).
	Published map[string]uint64 `json:"published,omitempty"`
	UpdatedAt time.Time         `json:"updatedAt"`
	// ReconciledAt is when the last event without a notification was published; zero if there was
	// none.
	ReconciledAt time.Time `json:"reconciledAt,omitzero"`
}

// Unresolved is a notification whose order could not be read, or something that arrived instead of
// a notification.
type Unresolved struct {
	// ID is <connection>.<inbox sequence>-<index>, or <connection>.foreign.<hash> for something
	// that is no notification.
	ID         string `json:"id"`
	Connection string `json:"connection"`
	Site       string `json:"site,omitempty"`
	// VendorSite is the vendor's id of the site, as in the notification.
	VendorSite   string    `json:"vendorSite,omitempty"`
	Order        string    `json:"order,omitempty"`
	Reason       string    `json:"reason"`
	Detail       string    `json:"detail,omitempty"`
	Raw          []byte    `json:"raw"`
	Size         int       `json:"size"` // the original size in bytes: larger than Raw if only its start could be kept
	InboxEntry   uint64    `json:"inboxEntry"`
	ReceivedAt   time.Time `json:"receivedAt"`
	UnresolvedAt time.Time `json:"unresolvedAt"`
	// RetriedAt is when it was last retried without success; nil if it never was.
	RetriedAt *time.Time `json:"retriedAt,omitempty"`
	// Count is how often it arrived; a notification always has 1. LastEntry and LastReceivedAt
	// belong to the last arrival.
	Count          int       `json:"count"`
	LastEntry      uint64    `json:"lastEntry"`
	LastReceivedAt time.Time `json:"lastReceivedAt"`
	// Told is set once the operational event about it is in the log. It is used for entries that
	// are not notifications, and for the notification of an unknown site whose event covers all of
	// that site.
	Told bool `json:"told,omitempty"`
}

// RetryOutcome is how a retry of an unresolved notification ended.
type RetryOutcome int

// The outcomes of a retry.
const (
	RetryResolved    RetryOutcome = iota // its event is in the log, and it is no longer unresolved
	RetryNotFound                        // there is no such unresolved notification
	RetryRefused                         // it still cannot be resolved, and stays; the error says why
	RetryUnavailable                     // the vendor or the store cannot be asked now
)
