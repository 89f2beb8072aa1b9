package natsd

import (
	"fmt"
	"slices"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// The accounts. deploy/nats/accounts.conf has the same for a server that others run; a test makes
// the same attacks on both.
//
//	RELAY        the relay: all its streams, buckets and subjects
//	SUBSCRIBERS  keys limited to sites: they hear the live subjects of their sites and may publish nothing
//	EVENTS       the copy of the log. Nobody logs in to it
//	KEY_<id>     one for each key of all sites: it receives the live subjects and reaches its own consumer of the copy
//	SYS          the server itself
//
// A key that reads the copy has an account of its own for this reason: a client that may send
// requests to JetStream chooses the subject of the response, and the server does not check whether
// it may publish there. So a reader can put messages on any subject of its account. In a shared
// account these could be the live subjects that others listen to; alone it only deceives itself.
const (
	relayAccount       = "RELAY"
	subscribersAccount = "SUBSCRIBERS"
	eventsAccount      = "EVENTS"
	systemAccount      = "SYS"
	keyAccount         = "KEY_"
	relayUser          = "relay"
)

// The relay reaches the JetStream of EVENTS below eventsAPI instead of $JS.API. EVENTS reaches that
// of the relay's log below logAPI.
const (
	eventsAPI = "$JS.EVENTS.API"
	logAPI    = "$JS.RELAY.API"
)

// api is the prefix of JetStream's API within an account.
const api = "$JS.API"

// The subjects on which a reader asks the relay to make and remove its consumer.
const (
	putSubject    = "events.consumer.put"
	deleteSubject = "events.consumer.delete"
)

// relayAsks are the requests that the relay may send to the JetStream of EVENTS, to make the copy
// and its consumers.
var relayAsks = []string{
	".STREAM.INFO." + EventsStream, ".STREAM.CREATE." + EventsStream, ".STREAM.UPDATE." + EventsStream,
	".CONSUMER.NAMES." + EventsStream, ".CONSUMER.CREATE." + EventsStream + ".>",
	".CONSUMER.DELETE." + EventsStream + ".*",
}

// relayLooks is the request for a reader's consumer.
const relayLooks = ".CONSUMER.INFO." + EventsStream + ".*"

// The requests that readers may send to it, each about the consumer with its own name.
const (
	consumerInfo = api + ".CONSUMER.INFO." + EventsStream + "."
	consumerNext = api + ".CONSUMER.MSG.NEXT." + EventsStream + "."
)

// ackSubjects returns the subjects on which a reader acknowledges, in the older and the newer form
// (with domain and account).
func ackSubjects(reader string) []string {
	return []string{"$JS.ACK." + EventsStream + "." + reader + ".>",
		"$JS.ACK.*.*." + EventsStream + "." + reader + ".>"}
}

// consumerSubject returns the subject, in the relay's account, of a reader's requests about its
// consumer. The operation is put or delete.
func consumerSubject(prefix, reader, operation string) string {
	return prefix + ".readers." + reader + "." + operation
}

// copySubject returns the subject on which the relay's log delivers to the copy.
func copySubject(prefix string) string { return prefix + ".copy" }

// accounts are the accounts of the embedded server.
type accounts struct {
	prefix                     string
	server                     *server.Server
	relay, subscribers, events *server.Account
}

// attach looks up the server's own copies of the accounts in the options. It must be called before
// the server starts.
func (a *accounts) attach(s *server.Server) (err error) {
	a.server = s
	for name, account := range map[string]**server.Account{
		relayAccount: &a.relay, subscribersAccount: &a.subscribers, eventsAccount: &a.events,
	} {
		if *account, err = s.LookupAccount(name); err != nil {
			return fmt.Errorf("look up account %s of the embedded NATS server: %w", name, err)
		}
	}
	a.limit(a.subscribers)
	return nil
}

// share lets subscribers hear the live subjects, and enables storage for the relay's account.
func (a *accounts) share() error {
	if err := a.relay.AddStreamExport(topology.AllEvents, nil); err != nil {
		return fmt.Errorf("export the live subjects: %w", err)
	}
	if err := a.subscribers.AddStreamImport(a.relay, topology.AllEvents, ""); err != nil {
		return fmt.Errorf("import the live subjects: %w", err)
	}
	if err := a.relay.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("enable JetStream for the relay's account: %w", err)
	}
	return nil
}

// shareEvents shares between the accounts what the copy of the log needs: its access to the log,
// the relay's access to make it, and the readers' access to read it.
func (a *accounts) shareEvents(log string) error {
	type service struct {
		from, to  *server.Account // the exporting and the importing account (nil: each reader's)
		subject   string          // in the exporting account
		as        string          // in the importing one
		responses server.ServiceRespType
	}
	services := []service{
		{from: a.relay, to: a.events, subject: api + ".CONSUMER.CREATE." + log, as: logAPI + ".CONSUMER.CREATE." + log},
		{
			from: a.relay, to: a.events,
			subject: api + ".CONSUMER.CREATE." + log + ".>", as: logAPI + ".CONSUMER.CREATE." + log + ".>",
		},
		{from: a.relay, to: a.events, subject: "$JS.FC." + log + ".>", as: "$JS.FC." + log + ".>"},
		{from: a.relay, to: a.events, subject: "$JS.FC.*.*." + log + ".>", as: "$JS.FC.*.*." + log + ".>"},
		{from: a.relay, subject: consumerSubject(a.prefix, "*", "*")},
		{from: a.events, subject: consumerInfo + "*"},
		{from: a.events, subject: consumerNext + "*", responses: server.Streamed},
	}
	for _, ask := range relayAsks {
		services = append(services, service{from: a.events, to: a.relay, subject: api + ask, as: eventsAPI + ask})
	}
	for _, ack := range ackSubjects("*") {
		services = append(services, service{from: a.events, subject: ack})
	}
	for _, s := range services {
		var only []*server.Account
		if s.to != nil {
			only = []*server.Account{s.to}
		}
		if err := s.from.AddServiceExportWithResponse(s.subject, s.responses, only); err != nil {
			return fmt.Errorf("export %s: %w", s.subject, err)
		}
		if s.to == nil {
			continue
		}
		if err := s.to.AddServiceImport(s.from, s.as, s.subject); err != nil {
			return fmt.Errorf("import %s: %w", s.subject, err)
		}
	}
	// Readers use it, too, so it is separate from what only the relay may ask.
	if err := a.relay.AddServiceImport(a.events, eventsAPI+relayLooks, api+relayLooks); err != nil {
		return fmt.Errorf("import %s: %w", eventsAPI+relayLooks, err)
	}
	deliveries := copySubject(a.prefix) + ".>"
	if err := a.relay.AddStreamExport(deliveries, []*server.Account{a.events}); err != nil {
		return fmt.Errorf("export %s: %w", deliveries, err)
	}
	if err := a.events.AddStreamImport(a.relay, deliveries, ""); err != nil {
		return fmt.Errorf("import %s: %w", deliveries, err)
	}
	if err := a.events.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("enable JetStream for the copy of the log: %w", err)
	}
	return nil
}

// reader returns the account of a key of all sites, and makes it at its first login. An account
// that is no longer used remains as an empty entry until the relay is restarted.
func (a *accounts) reader(key string) (*server.Account, error) {
	account, made := a.server.LookupOrRegisterAccount(keyAccount + key)
	if !made {
		return account, nil
	}
	a.limit(account)
	if err := account.AddStreamImport(a.relay, topology.AllEvents, ""); err != nil {
		return nil, fmt.Errorf("import the live subjects: %w", err)
	}
	type service struct {
		of          *server.Account
		as, subject string
	}
	services := []service{
		{a.relay, putSubject, consumerSubject(a.prefix, key, "put")},
		{a.relay, deleteSubject, consumerSubject(a.prefix, key, "delete")},
		{a.events, consumerInfo + key, consumerInfo + key},
		{a.events, consumerNext + key, consumerNext + key},
	}
	for _, ack := range ackSubjects(key) {
		services = append(services, service{a.events, ack, ack})
	}
	for _, s := range services {
		if err := account.AddServiceImport(s.of, s.as, s.subject); err != nil {
			return nil, fmt.Errorf("import %s: %w", s.subject, err)
		}
	}
	return account, nil
}

// operational returns the subjects of some kinds of operational events. Those of private kinds are on no subscriber's
// bus, which does not know whose a callback is: their client gets them by the API and by callbacks. The copy of the log
// must list the others, because it cannot list what it leaves out.
func operational(kinds []relay.Kind) []string {
	return each.Of(kinds, func(kind relay.Kind) string { return topology.OperationalSubject("*", string(kind), "*") })
}

// permissions allows a subscriber to read the live subjects of its sites, and nothing else. One
// that may see all sites may also use the consumer of the copy with the key's id. The account
// offers no more than that anyway; the permissions are a second barrier. Clients limited to sites
// share an account, and with it the queue groups of a subject. Each may only join groups with its
// own id: in another's group it would take away some of the other's events.
func permissions(c relay.Client, key string) *server.Permissions {
	p := &server.Permissions{
		Publish:   &server.SubjectPermission{},
		Subscribe: &server.SubjectPermission{Deny: operational(relay.PrivateKinds())},
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
