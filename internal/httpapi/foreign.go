package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
)

// hideForeign responds to a key's request about another client's callback as if the callback did not
// exist, before any of it is decoded or decrypted: response and cost are the same. The caller's own
// callbacks are read and checked by the operation. A PUT that creates a callback is left to the
// operation completely, because it must report that an id is taken.
func (a *API) hideForeign(_ http.ResponseWriter, r *http.Request) error {
	x := exchangeOf(r)
	named := strings.HasPrefix(chi.RouteContext(r.Context()).RoutePattern(), "/v1/callbacks/{id}")
	if !named || x.caller.isAdmin() || r.Method == http.MethodPut {
		return nil
	}
	id, err := url.PathUnescape(chi.URLParam(r, "id")) // it was validated before
	if err != nil {
		return err
	}
	ctx, cancel := a.patient(r)
	defer cancel()
	own, err := a.c.Store.Callbacks.Holds(ctx, id, func(data []byte) bool {
		return memberOf(data, "client") == x.caller.client.ID
	})
	if err == nil && !own {
		err = notFound()
	}
	return err
}

// memberOf returns the text of a document's member, or "" if there is none. It stops reading there,
// however long the document is.
func memberOf(data []byte, member string) string {
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return ""
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return ""
		}
		if name == member {
			value, _ := d.Token()
			text, _ := value.(string)
			return text
		}
		var skipped json.RawMessage
		if d.Decode(&skipped) != nil {
			return ""
		}
	}
	return ""
}
