package relay

import "encoding/json"

// Change is one difference between two snapshots of an order.
type Change struct {
	Path string          `json:"path"` // JSON pointer (RFC 6901) into data.order; /Parts/- for a part that is gone
	Part *PartKey        `json:"part,omitempty"`
	From json.RawMessage `json:"from"` // null: was not there
	To   json.RawMessage `json:"to"`   // null: is not there
}

// PartKey identifies a part in different snapshots. The vendor gives parts no id, so parts with
// equal numbers are distinguished by their occurrence.
type PartKey struct {
	OEPartNumber      string `json:"oePartNumber"`
	OrderedPartNumber string `json:"orderedPartNumber"`
	Occurrence        int    `json:"occurrence"` // 1 for the first part with these numbers
}
