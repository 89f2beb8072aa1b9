package dispatcher

import (
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/signature"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxFilterSubjects bounds the subject filters of one read of the log; a read with more takes every site and matches
// here.
const maxFilterSubjects = 64

// target is a callback as configured at one moment, with its client: whom an event is for, and how it is sent. It is
// never changed; a change of either makes a new one, which the next attempt takes.
type target struct {
	callback  relay.Callback
	client    relay.Client
	revisions [2]uint64 // at which the two are stored
	// orphaned: the client is not known, or is another one under the same id. The callback gets nothing, and keeps
	// its place until its client is heard of or it is removed.
	orphaned bool
	key      string // names the callback to the sender: one made anew under an old id is another
	secrets  []signingSecret
	auth     sender.Auth
}

type signingSecret struct {
	secret  signature.Secret
	expires *time.Time
}

func newTarget(cb relay.Callback, client relay.Client) *target {
	// Sorted, as every event is held against them: 1,000 callbacks of 1,000 orders each must not hold the reader up.
	client.Sites, cb.Filter.Sites, cb.Filter.Orders = relay.Sorted(client.Sites), relay.Sorted(cb.Filter.Sites), relay.Sorted(cb.Filter.Orders)
	t := &target{callback: cb, client: client, key: cb.ID + " " + cb.Generation}
	for _, s := range cb.Secrets.Signing {
		secret, err := signature.ParseSecret(s.Secret)
		if err == nil { // without any the attempt ends as Invalid and says so
			t.secrets = append(t.secrets, signingSecret{secret, s.ExpiresAt})
		}
	}
	if a := cb.Secrets.Auth; a != nil {
		switch a.Type {
		case "bearer":
			t.auth = sender.Bearer(a.Token)
		case "basic":
			t.auth = sender.Basic(a.Username, a.Password)
		}
	}
	return t
}

// matches reports whether the event is for this callback: its client may see it and its site, and its filter passes it.
func (t *target) matches(ev *event) bool {
	mine := t.client.AllSites || relay.Among(t.client.Sites, ev.Site)
	if ev.private { // about a callback, at no site
		mine = ev.client == t.callback.Client && ev.clientGeneration == t.callback.ClientGeneration
	}
	return ev.Order != "" && mine && !t.orphaned && t.callback.Filter.MatchesSorted(ev.Site, ev.Type, ev.Order)
}

// request is one attempt to send body.
func (t *target) request(id string, body []byte, now time.Time) sender.Request {
	r := sender.Request{
		Callback: t.key, URL: t.callback.Secrets.URL, EventID: id, Body: body,
		ContentType: t.callback.ContentType, Headers: t.callback.Secrets.Headers, Auth: t.auth,
		Timeout: time.Duration(t.callback.TimeoutSeconds) * time.Second,
	}
	for _, s := range t.secrets {
		if s.expires == nil || now.Before(*s.expires) {
			r.Secrets = append(r.Secrets, s.secret)
		}
	}
	return r
}

// everySite stands for all sites where callbacks are found by the sites that they want: no site is called so.
const everySite = ""

// index returns the sites under which the callback is found.
func (t *target) index() []string {
	if sites, all := t.sites(); !all {
		return sites
	}
	return []string{everySite}
}

// sites returns the sites whose events may match; all means that every site may.
func (t *target) sites() (sites []string, all bool) {
	switch filter := t.callback.Filter.Sites; {
	case len(filter) == 0 && t.client.AllSites:
		return nil, true
	case len(filter) == 0:
		sites = slices.Clone(t.client.Sites)
		if t.wantsOperational() { // what happens to the client's own callbacks happens at no site
			sites = append(sites, relay.NoSite)
		}
		return sites, false
	default:
		for i, s := range filter {
			if repeated := i > 0 && filter[i-1] == s; !repeated && (t.client.AllSites || relay.Among(t.client.Sites, s)) {
				sites = append(sites, s)
			}
		}
		return sites, false
	}
}

// wantsOperational reports whether the filter asks for operational events.
func (t *target) wantsOperational() bool {
	return slices.ContainsFunc(t.callback.Filter.Types, func(s string) bool { return strings.HasPrefix(s, relay.OperationalPrefix) })
}

// subjects answers filters that select at least everything of the log that matches; none means that nothing can match.
// If order is not empty, only its events are wanted.
func (t *target) subjects(order string) (filters []string, none bool) {
	sites, all := t.sites()
	f := t.callback.Filter
	orders := f.Orders
	if order != "" {
		orders = []string{order}
	}
	created := slices.ContainsFunc([]relay.Filter{{Types: f.Types}}, func(f relay.Filter) bool { return f.Matches("", relay.TypeOrderCreated, "") })
	updated := slices.ContainsFunc([]relay.Filter{{Types: f.Types}}, func(f relay.Filter) bool { return f.Matches("", relay.TypeOrderUpdated, "") })
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
		return []string{topology.AllEvents}, false // little of the log is for nobody
	}
	if all {
		sites = []string{"*"}
	}
	if len(orders) == 0 {
		orders = []string{"*"}
	}
	// Counted before they are made: 1,000 sites and 1,000 orders would be a million.
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
