package store

import "encoding/json"

// Aside is what lists of unresolved notifications are sorted and chosen by: all but what came of
// them.
type Aside struct {
	Connection string `json:"connection"`
	Site       string `json:"site"`
	Reason     string `json:"reason"`
	InboxEntry uint64 `json:"inboxEntry"`
	Bytes      int    `json:"-"` // of the whole document
}

// asideCodec reads unresolved notifications without their bytes.
type asideCodec struct{ jsonCodec[Aside] }

func (asideCodec) decode(_ string, b []byte) (Aside, error) {
	var a Aside
	err := json.Unmarshal(b, &a)
	a.Bytes = len(b)
	return a, err
}
