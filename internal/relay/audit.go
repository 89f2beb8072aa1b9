package relay

import "time"

// AuditRecord is one record of the log of changes that were requested. There are two for each
// request: one before anything is changed, and one of how it ended. Neither holds a body or a
// secret.
type AuditRecord struct {
	// Of is the position of the record of the request, in the record of how it ended; 0 in the
	// former.
	Of uint64 `json:"of,omitempty"`

	// Who: an administrator by name, or a client by its id, its generation and the id of the key.
	Admin      string `json:"admin,omitempty"`
	Client     string `json:"client,omitempty"`
	Generation string `json:"generation,omitempty"`
	Key        string `json:"key,omitempty"`

	// What, of a request.
	Operation string    `json:"operation,omitempty"` // as the contract names it
	Method    string    `json:"method,omitempty"`
	Path      string    `json:"path,omitempty"`
	For       string    `json:"for,omitempty"` // the client that an administrator acts for
	Request   string    `json:"request"`       // the request's id
	Remote    string    `json:"remote,omitempty"`
	At        time.Time `json:"at"`

	// How it ended.
	Status   int    `json:"status,omitempty"`
	Problem  string `json:"problem,omitempty"`
	Made     string `json:"made,omitempty"`     // the path of what was made
	Replayed bool   `json:"replayed,omitempty"` // nothing was changed: the same request came before
}
