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
}

// Unresolved is a notification whose order could not be read.
type Unresolved struct {
	ID           string    `json:"id"` // <connection>-<inbox sequence>-<index>
	Connection   string    `json:"connection"`
	Site         string    `json:"site,omitempty"`
	Order        string    `json:"order,omitempty"`
	Reason       string    `json:"reason"`
	Detail       string    `json:"detail,omitempty"`
	Raw          []byte    `json:"raw"`
	InboxEntry   uint64    `json:"inboxEntry"`
	ReceivedAt   time.Time `json:"receivedAt"`
	UnresolvedAt time.Time `json:"unresolvedAt"`
}
