package natsd

import (
	"slices"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// ownersOnly are the operational events about one client's callbacks. On the bus nobody can tell whose a callback is, so no
// subscriber hears them; their client gets them by the API and by callbacks.
var ownersOnly = []relay.Kind{relay.KindCallbackDisabled, relay.KindCallbackRecovered, relay.KindDeliveriesExpired}

// shared are the other operational events. The copy of the log names what it takes, as it cannot name what it leaves.
var shared = []relay.Kind{
	relay.KindConsentRequired, relay.KindConsentRestored, relay.KindSubscriptionAdopted, relay.KindOrderUnresolved, relay.KindGapSuspected, relay.KindReconciled,
	relay.KindSiteUnknown, relay.KindLogClamped,
}

func operational(kinds []relay.Kind) []string {
	subjects := make([]string, len(kinds))
	for i, kind := range kinds {
		subjects[i] = topology.OperationalSubject("*", string(kind), "*")
	}
	return subjects
}

// permissions lets a subscriber read the live subjects of its sites, and nothing else; who may see all sites also reaches the one
// consumer of the copy that bears the key's id. The account has no more than that to offer: this is the second lock on the door.
// Clients limited to sites share an account, and with it the queue groups of a subject: each may only join those that bear its id.
// Whoever joined another's would take some of its events away.
func permissions(c relay.Client, key string) *server.Permissions {
	p := &server.Permissions{Publish: &server.SubjectPermission{}, Subscribe: &server.SubjectPermission{Deny: operational(ownersOnly)}}
	if c.AllSites {
		p.Publish.Allow = slices.Concat([]string{putSubject, deleteSubject, consumerInfo + key, consumerNext + key}, ackSubjects(key))
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

// RelayPermissions answers what the relay's own user on a shared server needs, and no more: JetStream on the streams and buckets of
// its prefix, the names of the account's streams, its own subjects, and the copy of the log. It also answers requests, which a server
// allows by allow_responses. They keep relays of several prefixes from touching one another's streams by mistake. They are no wall
// between tenants: whoever may make a stream may let it source another of its account. That wall is an account.
func RelayPermissions(t topology.Topology) (publish, subscribe []string) {
	publish = []string{api + ".INFO", api + ".STREAM.NAMES", api + ".STREAM.*." + t.RestoreSign(), t.Prefix + ".>"}
	var streams []string
	for _, s := range t.Streams() {
		streams = append(streams, s.Name)
	}
	for _, b := range t.KeyValues() {
		streams = append(streams, "KV_"+b.Bucket)
		publish = append(publish, "$KV."+b.Bucket+".>")
	}
	for _, s := range streams {
		publish = append(publish,
			api+".STREAM.*."+s, api+".STREAM.MSG.*."+s, api+".DIRECT.GET."+s, api+".DIRECT.GET."+s+".>",
			api+".CONSUMER.*."+s, api+".CONSUMER.*."+s+".>", api+".CONSUMER.MSG.NEXT."+s+".*", api+".CONSUMER.DURABLE.CREATE."+s+".*",
			"$JS.ACK."+s+".>", "$JS.ACK.*.*."+s+".>", "$JS.FC."+s+".>", "$JS.FC.*.*."+s+".>",
			"$JS.SNAPSHOT.ACK."+s+".>", "$JS.SNAPSHOT.RESTORE."+s+".>")
	}
	for _, ask := range append([]string{relayLooks}, relayAsks...) {
		publish = append(publish, eventsAPI+ask)
	}
	return publish, []string{t.Prefix + ".>", "_INBOX.>"}
}
