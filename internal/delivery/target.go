package delivery

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxFilterSubjects is the largest number of subject filters for one read of the log. A read that needs more reads all
// sites, and what does not match is dropped here.
const maxFilterSubjects = 64

// Target is a callback with its client, as configured at one moment: which events it gets, and how they are sent. A
// Target is never changed. When the configuration changes there is a new one, and the next attempt is made by that.
type Target struct {
	Callback relay.Callback
	Client   relay.Client
	// Orphaned is set if the client is not known, or is another one under the same id. The callback gets nothing then,
	// and keeps its position in the log until its client is known or it is removed.
	Orphaned bool
	// Key is the callback's name at the sender and capacity.Slots. A callback made again under its id has another.
	Key       string
	Revisions [2]uint64 // at which callback and client are stored

	secrets []signingSecret
	lasting []signature.Secret // the same, unless one of them expires
	auth    sender.Auth
	parsed  *url.URL // nil if no attempt can be made at it
}

type signingSecret struct {
	secret  signature.Secret
	expires *time.Time
}

// NewTarget returns the target that a callback and its client are.
func NewTarget(cb relay.Callback, client relay.Client) *Target {
	// Sorted, as every event is compared with them: 1,000 callbacks of 1,000 orders each must not hold the reader up.
	client.Sites, cb.Filter.Sites, cb.Filter.Orders = relay.Sorted(client.Sites), relay.Sorted(cb.Filter.Sites),
		relay.Sorted(cb.Filter.Orders)
	t := &Target{Callback: cb, Client: client, Key: cb.ID + " " + cb.Generation, parsed: sender.ParseURL(cb.Secrets.URL)}
	expire := false
	for _, s := range cb.Secrets.Signing {
		secret, err := signature.ParseSecret(s.Secret)
		if err == nil { // without any secret the attempt ends as Invalid
			t.secrets = append(t.secrets, signingSecret{secret, s.ExpiresAt})
			t.lasting = append(t.lasting, secret)
			expire = expire || s.ExpiresAt != nil
		}
	}
	if expire {
		t.lasting = nil
	}
	if a := cb.Secrets.Auth; a != nil {
		switch a.Type {
		case relay.AuthBearer:
			t.auth = sender.Bearer(a.Token)
		case relay.AuthBasic:
			t.auth = sender.Basic(a.Username, a.Password)
		case relay.AuthOAuth2:
			t.auth = sender.WithToken(sender.ClientCredentials{
				TokenURL: a.TokenURL, ID: a.ClientID, Secret: a.ClientSecret, Scope: a.Scope, Audience: a.Audience,
				InForm: a.InForm,
			})
		}
	}
	return t
}

// Concurrency returns how many attempts of a callback may be under way.
func Concurrency(cb relay.Callback) int { return min(max(cb.Concurrency, 1), relay.MaxConcurrency) }

// BatchSize returns how many events of an order an attempt at a callback may be for. Of several the newest is sent.
func BatchSize(cb relay.Callback) int {
	if cb.Mode == relay.ModeLatest {
		return cursor.LaneEntries
	}
	return 1
}

// SameAs reports whether nothing has changed since other.
func (t *Target) SameAs(other *Target) bool { return t.Revisions == other.Revisions }

// Matches reports whether the event is for this callback: its client may see the event, and its filter matches it.
func (t *Target) Matches(ev *Event) bool {
	mine := t.Client.AllSites || relay.Among(t.Client.Sites, ev.Site)
	if ev.private { // at no site
		mine = ev.client == t.Callback.Client &&
			ev.clientGeneration == t.Callback.ClientGeneration && ev.about != t.Callback.ID
	}
	return ev.Order != "" && mine && !t.Orphaned && t.Callback.Filter.MatchesSorted(ev.Traits())
}

// Request is one attempt to send body.
func (t *Target) Request(id string, body []byte, now time.Time) sender.Request {
	r := sender.Request{
		Callback: t.Key, URL: t.Callback.Secrets.URL, Target: t.parsed, EventID: id, Body: body,
		ContentType: t.Callback.ContentType, Headers: t.Callback.Secrets.Headers, Auth: t.auth,
		Timeout: time.Duration(t.Callback.TimeoutSeconds) * time.Second,
	}
	if t.lasting != nil {
		r.Secrets = t.lasting
		return r
	}
	for _, s := range t.secrets {
		if s.expires == nil || now.Before(*s.expires) {
			r.Secrets = append(r.Secrets, s.secret)
		}
	}
	return r
}

// EverySite means all sites where callbacks are indexed by the sites that they want. No site has this name.
const EverySite = ""

// Sites returns the sites whose events may match: EverySite alone if any may.
func (t *Target) Sites() []string {
	if sites, all := t.sites(); !all {
		return sites
	}
	return []string{EverySite}
}

// sites returns the sites whose events may match; all means that every site may.
func (t *Target) sites() (sites []string, all bool) {
	switch filter := t.Callback.Filter.Sites; {
	case len(filter) == 0 && t.Client.AllSites:
		return nil, true
	case len(filter) == 0:
		sites = slices.Clone(t.Client.Sites)
		if t.wantsOperational() { // events about the client's own callbacks are at no site
			sites = append(sites, relay.NoSite)
		}
		return sites, false
	default:
		for i, s := range filter {
			if repeated := i > 0 && filter[i-1] == s; !repeated &&
				(t.Client.AllSites || relay.Among(t.Client.Sites, s)) {
				sites = append(sites, s)
			}
		}
		return sites, false
	}
}

// wantsOperational reports whether the filter asks for operational events.
func (t *Target) wantsOperational() bool {
	return slices.ContainsFunc(t.Callback.Filter.Types, func(s string) bool {
		return strings.HasPrefix(s, relay.OperationalPrefix)
	})
}

// Subjects returns filters that select at least all events of the log that match. If order is not empty, only events of
// that order are wanted. None is true if nothing can match.
func (t *Target) Subjects(order string) (filters []string, none bool) {
	sites, all := t.sites()
	f := t.Callback.Filter
	orders := f.Orders
	if order != "" {
		orders = []string{order}
	}
	types := relay.Filter{Types: f.Types}
	created, updated := types.Matches(relay.Traits{Type: relay.TypeOrderCreated}),
		types.Matches(relay.Traits{Type: relay.TypeOrderUpdated})
	operational := t.wantsOperational()
	action, kinds := "*", 0 // kinds is how many subjects there are for each site and order
	switch {
	case created && !updated:
		action = "created"
	case updated && !created:
		action = "updated"
	}
	if created || updated {
		kinds++
	}
	if operational {
		kinds++
	}
	if all && len(orders) == 0 && created && updated {
		return []string{topology.AllEvents}, false // and little else: one filter is enough
	}
	if all {
		sites = []string{"*"}
	}
	if len(orders) == 0 {
		orders = []string{"*"}
	}
	// They are counted before they are made: 1,000 sites and 1,000 orders would be a million.
	if len(sites)*len(orders)*kinds > maxFilterSubjects {
		if sites = []string{"*"}; len(orders) > maxFilterSubjects/2 {
			orders = []string{"*"}
		}
	}
	for _, site := range sites {
		for _, o := range orders {
			if created || updated {
				filters = append(filters, topology.OrderSubject(site, action, o))
			}
			if operational {
				filters = append(filters, topology.OperationalSubject(site, "*", o))
			}
		}
	}
	return filters, len(filters) == 0
}
