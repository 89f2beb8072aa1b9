package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// caller is who makes a request: the admin token, or a key of a client.
type caller struct {
	admin  bool
	client relay.Client
	key    relay.Key
}

// name is what the access log says.
func (c caller) name() string {
	if c.admin {
		return "admin"
	}
	return c.key.ID
}

// maySeeSite reports whether what happens at a site is the caller's business.
func (c caller) maySeeSite(site string) bool { return c.admin || c.client.MaySee(site) }

// owns reports whether a callback is the caller's.
func (c caller) owns(cb relay.Callback) bool { return c.admin || cb.Client == c.client.ID }

// mayChange refuses keys that may only read. It is asked after it is clear that the caller may see what it wants to change, so
// that the refusal tells nothing.
func (c caller) mayChange() error {
	if !c.admin && c.key.Role != relay.RoleWrite {
		return &problem{kind: kindReadOnly}
	}
	return nil
}

// chosenSites checks sites that the caller named. One it may not see is unknown to it, whether it exists or not.
func (c caller) chosenSites(sites []string) error {
	for _, site := range sites {
		if !c.maySeeSite(site) {
			return badParameter("sites", "%q is not a site of this client", site)
		}
	}
	return nil
}

// aboutCallbacks are the types of the operational events that are about a callback.
var aboutCallbacks = []string{
	relay.OperationalPrefix + string(relay.KindCallbackDisabled), relay.OperationalPrefix + string(relay.KindCallbackRecovered),
	relay.OperationalPrefix + string(relay.KindDeliveriesExpired),
}

// maySeeEvent reports whether an event is the caller's business. One about a callback is only its client's, wherever it stands; the
// event says whose the callback was, which may have gone to another client since.
func (c caller) maySeeEvent(ev store.Stored) bool {
	if c.admin {
		return true
	}
	if !slices.Contains(aboutCallbacks, ev.Type) {
		return c.client.MaySee(ev.Site)
	}
	var body struct {
		Data struct {
			Details struct{ Client string }
		}
	}
	return json.Unmarshal(ev.Body, &body) == nil && body.Data.Details.Client == c.client.ID
}

// authenticate finds out who calls. Operations that want the admin token do not exist for keys.
func (a *API) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r)
		if x.op.access == accessPublic {
			next.ServeHTTP(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
			a.fail(w, r, kindUnauthorized.problem("Authorization: Bearer is missing."))
			return
		}
		sum := sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(sum[:], a.admin[:]) == 1 {
			x.caller = caller{admin: true}
			next.ServeHTTP(w, r)
			return
		}
		id, ok := access.KeyID(token)
		if ok {
			select {
			case <-a.c.Keys.Ready():
			default:
				a.fail(w, r, &problem{kind: kindBusy, detail: "The relay is starting.", retryAfter: 1e9})
				return
			}
			x.caller.client, x.caller.key, ok = a.c.Keys.Lookup(id, token)
		}
		switch {
		case !ok:
			a.fail(w, r, kindUnauthorized.problem("The token is not valid."))
		case !a.limits.allow(id):
			a.fail(w, r, &problem{kind: kindTooMany, retryAfter: 1e9})
		case x.op.access == accessAdmin:
			a.fail(w, r, notFound())
		default:
			next.ServeHTTP(w, r)
		}
	})
}
