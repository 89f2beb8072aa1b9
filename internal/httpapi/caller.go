package httpapi

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// caller is who makes a request: an administrator, or a key of a client.
type caller struct {
	admin  string // the administrator's name
	client relay.Client
	key    relay.Key
}

// isAdmin reports whether the caller is an administrator.
func (c caller) isAdmin() bool { return c.admin != "" }

// attrs returns the caller's attributes for the log, none if the caller is unknown.
func (c caller) attrs() []slog.Attr {
	switch {
	case c.isAdmin():
		return []slog.Attr{slog.String("admin", c.admin)}
	case c.key.ID != "":
		return []slog.Attr{slog.String("client", c.client.ID), slog.String("key", c.key.ID)}
	}
	return nil
}

// logOf returns the API's logger with the caller's attributes.
func (a *API) logOf(c caller) *slog.Logger { return slog.New(a.c.Log.Handler().WithAttrs(c.attrs())) }

// present returns the caller's present state. Since it was authenticated, its token may have been
// replaced, its key revoked or expired, its client removed or given other sites.
func (a *API) present(c caller) (caller, error) {
	if c.isAdmin() && !a.c.Admins.Has(c.admin) {
		return caller{}, kindUnauthorized.problem("The token was replaced meanwhile.")
	}
	if c.isAdmin() || c.key.ID == "" {
		return c, nil
	}
	client, known := a.c.Keys.Client(c.client.ID)
	if known && client.Generation == c.client.Generation {
		for _, key := range client.Keys {
			if key.ID == c.key.ID && bytes.Equal(key.Hash, c.key.Hash) && !key.Expired(time.Now()) {
				c.client, c.key = client, key
				return c, nil
			}
		}
	}
	return caller{}, kindUnauthorized.problem("The key was revoked or has expired meanwhile.")
}

// seesTheSame reports whether two states of a client may see the same sites.
func (c caller) seesTheSame(other caller) bool {
	return c.client.AllSites == other.client.AllSites && slices.Equal(c.client.Sites, other.client.Sites)
}

// maySeeSite reports whether the caller may see what happens at a site.
func (c caller) maySeeSite(site string) bool { return c.isAdmin() || c.client.MaySee(site) }

// owns reports whether a callback belongs to the caller.
func (c caller) owns(cb relay.Callback) bool { return c.isAdmin() || cb.BelongsTo(c.client) }

// gone returns the problem for a caller whose client was removed while it made a callback.
func (c caller) gone() error {
	if c.isAdmin() {
		return kindConflict.problem("The client was removed at the same moment.")
	}
	return kindUnauthorized.problem("The token is not valid.")
}

// mayChange returns a problem for keys that may only read. It is called before it is known what the
// caller wants to change (authorize), so that the refusal reveals nothing.
func (c caller) mayChange() error {
	if !c.isAdmin() && c.key.Role == relay.RoleRead {
		return &problem{kind: kindReadOnly}
	}
	return nil
}

// mayManage returns a problem for keys that have nothing to do with keys. Like mayChange it is
// called before it is known what the caller names.
func (c caller) mayManage() error {
	if !c.isAdmin() && c.key.Role != relay.RoleManage {
		return &problem{kind: kindRole}
	}
	return nil
}

// mayChoose checks the sites and the types of events that the caller named. A site that it may not see
// is unknown to it, whether or not it exists.
func (c caller) mayChoose(sites, types []string) error {
	for _, site := range sites {
		if !c.maySeeSite(site) {
			return badParameter("sites", "%q is not a site of this client", site)
		}
	}
	for _, typ := range types {
		if err := relay.CheckType(typ); err != nil {
			return badParameter("types", "%s", err)
		}
	}
	return nil
}

// maySeeEvent reports whether the caller may see an event. One of a private kind belongs to one
// client only, for any site. The client is taken from the event: the id of the callback that it is
// about may belong to another client now, and the client's id to another generation.
func (c caller) maySeeEvent(ev store.Stored) bool {
	if c.isAdmin() {
		return true
	}
	switch kind, _ := relay.KindOf(ev.Type); {
	case !kind.Private():
		return c.client.MaySee(ev.Site)
	case kind.NotToReaders() && c.key.Role == relay.RoleRead:
		return false
	}
	var body struct {
		Data struct {
			Details struct{ Client, ClientGeneration string }
		}
	}
	if json.Unmarshal(ev.Body, &body) != nil {
		return false
	}
	of := body.Data.Details
	return of.Client == c.client.ID && of.ClientGeneration == c.client.Generation
}

// hideForeign responds to a key's request about another client's callback as if the callback did not
// exist, before any of it is decoded or decrypted: response and cost are the same. The caller's own
// callbacks are read and checked by the operation. A PUT that creates a callback is left to the
// operation completely, because it must report that an id is taken.
func (a *API) hideForeign(_ http.ResponseWriter, r *http.Request) error {
	x := exchangeOf(r.Context())
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
