package natsd

import (
	"slices"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// ownersOnly are the operational events about one client's callbacks. The bus does not know whose a
// callback is, so no subscriber hears them; their client gets them by the API and by callbacks.
var ownersOnly = []relay.Kind{relay.KindCallbackDisabled, relay.KindCallbackRecovered, relay.KindDeliveriesExpired}

// shared are the other operational events. The copy of the log must list what it takes, because it
// cannot list what it leaves out.
var shared = []relay.Kind{
	relay.KindConsentRequired, relay.KindConsentRestored, relay.KindSubscriptionAdopted, relay.KindOrderUnresolved,
	relay.KindGapSuspected, relay.KindReconciled, relay.KindSiteUnknown, relay.KindLogClamped,
}

func operational(kinds []relay.Kind) []string {
	subjects := make([]string, len(kinds))
	for i, kind := range kinds {
		subjects[i] = topology.OperationalSubject("*", string(kind), "*")
	}
	return subjects
}

// permissions allows a subscriber to read the live subjects of its sites, and nothing else. One
// that may see all sites may also use the consumer of the copy with the key's id. The account
// offers no more than that anyway; the permissions are a second barrier. Clients limited to sites
// share an account, and with it the queue groups of a subject. Each may only join groups with its
// own id: in another's group it would take away some of the other's events.
func permissions(c relay.Client, key string) *server.Permissions {
	p := &server.Permissions{
		Publish:   &server.SubjectPermission{},
		Subscribe: &server.SubjectPermission{Deny: operational(ownersOnly)},
	}
	if c.AllSites {
		own := []string{putSubject, deleteSubject, consumerInfo + key, consumerNext + key}
		p.Publish.Allow = slices.Concat(own, ackSubjects(key))
		p.Subscribe.Allow = []string{topology.AllEvents, "_INBOX.>"}
		return p
	}
	p.Publish.Deny = []string{">"}
	for _, site := range c.Sites {
		subject := topology.SiteFilter(site)
		p.Subscribe.Allow = append(p.Subscribe.Allow, subject, subject+" "+c.ID, subject+" "+c.ID+".>")
	}
	if len(p.Subscribe.Allow) == 0 {
		p.Subscribe.Deny = []string{">"}
	}
	return p
}
