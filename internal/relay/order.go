package relay

import (
	"encoding/json"
	"time"
)

// Snapshot is one answer of the vendor about an order.
type Snapshot struct {
	Order  json.RawMessage `json:"order"` // the vendor's JSON, every field and digit as it came
	ReadAt time.Time       `json:"readAt"`
}

// OrderState is the document of relay_orders: what is needed to say what changed, and to publish exactly once.
type OrderState struct {
	Site        string          `json:"site"`
	ID          string          `json:"id"`
	Order       json.RawMessage `json:"order,omitempty"`
	ReadAt      time.Time       `json:"readAt"`
	Status      string          `json:"status,omitempty"`
	Revision    int             `json:"revision"`    // number of events of the order so far
	Sequence    uint64          `json:"sequence"`    // of the last event: microseconds
	LogPosition uint64          `json:"logPosition"` // stream sequence of the last event
	// Published is the last inbox entry published, per connection (resolver.Entry packed into a number).
	Published map[string]uint64 `json:"published,omitempty"`
	UpdatedAt time.Time         `json:"updatedAt"`
	// ReconciledAt is when the last event was published that no notification asked for; zero if there was none.
	ReconciledAt time.Time `json:"reconciledAt,omitzero"`
}

// Unresolved is a notification whose order could not be read, or something that was sent in the place of one.
type Unresolved struct {
	// ID is <connection>.<inbox sequence>-<index>, or <connection>.foreign.<what> of something that is no notification.
	ID         string `json:"id"`
	Connection string `json:"connection"`
	Site       string `json:"site,omitempty"`
	// VendorSite is the vendor's id of the site, as the notification has it.
	VendorSite   string    `json:"vendorSite,omitempty"`
	Order        string    `json:"order,omitempty"`
	Reason       string    `json:"reason"`
	Detail       string    `json:"detail,omitempty"`
	Raw          []byte    `json:"raw"`
	Size         int       `json:"size"` // of what came, in bytes: larger than Raw if only its start could be kept
	InboxEntry   uint64    `json:"inboxEntry"`
	ReceivedAt   time.Time `json:"receivedAt"`
	UnresolvedAt time.Time `json:"unresolvedAt"`
	// RetriedAt is when it was retried last and stayed; nil if it never was.
	RetriedAt *time.Time `json:"retriedAt,omitempty"`
	// Count is how often it came: 1, but for what is no notification. LastEntry and LastReceivedAt are those of the last one.
	Count          int       `json:"count"`
	LastEntry      uint64    `json:"lastEntry"`
	LastReceivedAt time.Time `json:"lastReceivedAt"`
	// Told says that the operational event of it is in the log. It is kept of what is no notification, and of a notification of an unknown
	// site whose event stands for all of that site.
	Told bool `json:"told,omitempty"`
}
