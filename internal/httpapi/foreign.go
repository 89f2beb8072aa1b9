package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
)

// hideForeign ends a key's request about a callback of another client as if there were none, before anything of it is decoded or
// decrypted: the answer is the same, and so is the work. What is the caller's own, the operation reads and judges itself. A creating PUT is
// left to it altogether, as it must tell that an id is taken.
func (a *API) hideForeign(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r)
		named := strings.HasPrefix(chi.RouteContext(r.Context()).RoutePattern(), "/v1/callbacks/{id}")
		if !named || x.caller.isAdmin() || r.Method == http.MethodPut {
			next.ServeHTTP(w, r)
			return
		}
		id, err := url.PathUnescape(chi.URLParam(r, "id")) // it has been found valid
		if err != nil {
			a.fail(w, r, err)
			return
		}
		ctx, cancel := a.patient(r)
		own, err := a.c.Store.Callbacks.Holds(ctx, id, func(data []byte) bool { return memberOf(data, "client") == x.caller.client.ID })
		cancel()
		switch {
		case err != nil:
			a.fail(w, r, err)
		case !own:
			a.fail(w, r, notFound())
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// memberOf returns the text of a document's member, "" if it has none. It reads no further than that, however long the document is.
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
