package natsd

import "github.com/audatex-relay/relay/internal/topology"

// RelayPermissions returns the subjects that the relay's own user needs on a shared server, and no
// more: JetStream on the streams and buckets of its prefix, the names of the account's streams, its
// own subjects, and the copy of the log. The relay also responds to requests, which a server allows
// with allow_responses. These permissions prevent relays with different prefixes from using each
// other's streams by mistake. They do not separate tenants: a user that may make a stream may let
// it source another one of its account. Only an account separates tenants.
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
			api+".CONSUMER.*."+s, api+".CONSUMER.*."+s+".>", api+".CONSUMER.MSG.NEXT."+s+".*",
			api+".CONSUMER.DURABLE.CREATE."+s+".*",
			"$JS.ACK."+s+".>", "$JS.ACK.*.*."+s+".>", "$JS.FC."+s+".>", "$JS.FC.*.*."+s+".>",
			"$JS.SNAPSHOT.ACK."+s+".>", "$JS.SNAPSHOT.RESTORE."+s+".>")
	}
	for _, ask := range append([]string{relayLooks}, relayAsks...) {
		publish = append(publish, eventsAPI+ask)
	}
	return publish, []string{t.Prefix + ".>", "_INBOX.>"}
}
