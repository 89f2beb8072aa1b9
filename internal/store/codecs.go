package store

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
)

// cursorCodec and laneCodec check what they read: a contradiction must stop at the store's edge.
type cursorCodec struct{ jsonCodec[cursor.Document] }

func (cursorCodec) decode(_ string, b []byte) (cursor.Document, error) {
	return cursor.DecodeDocument(b)
}

type laneCodec struct{ jsonCodec[cursor.Lane] }

func (laneCodec) decode(_ string, b []byte) (cursor.Lane, error) { return cursor.DecodeLane(b) }

// Aside is what lists of unresolved notifications are sorted and chosen by: all but what came of
// them.
type Aside struct {
	Connection string `json:"connection"`
	Site       string `json:"site"`
	Reason     string `json:"reason"`
	InboxEntry uint64 `json:"inboxEntry"`
	Bytes      int    `json:"-"` // of the whole document

	UnresolvedAt time.Time `json:"unresolvedAt"`
}

// asideCodec reads unresolved notifications without their bytes.
type asideCodec struct{ jsonCodec[Aside] }

func (asideCodec) decode(_ string, b []byte) (Aside, error) {
	var a Aside
	err := json.Unmarshal(b, &a)
	a.Bytes = len(b)
	return a, err
}

// rawCodec leaves documents as they are.
type rawCodec struct{}

func (rawCodec) encode(_ string, v json.RawMessage) ([]byte, error) { return v, nil }
func (rawCodec) decode(_ string, b []byte) (json.RawMessage, error) { return slices.Clone(b), nil }
