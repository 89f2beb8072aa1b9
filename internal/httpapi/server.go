package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/apidocs"
	"github.com/audatex-relay/relay/internal/audit"
	"github.com/audatex-relay/relay/internal/consent"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// Dispatcher is what the API needs from the part that delivers.
type Dispatcher interface {
	// Status returns the status of callbacks whose owners respond.
	Status(ctx context.Context, callbacks []string) map[string]Status
	// RetryDelivery makes a delivery that waits due now, SkipDelivery ends it. An error means that the owner of the
	// callback does not respond.
	RetryDelivery(ctx context.Context, cb relay.Callback, seq uint64, order string) (Waiting, error)
	SkipDelivery(ctx context.Context, cb relay.Callback, seq uint64, order string) (Waiting, error)
	// Test sends one event to a callback in the same way as deliveries, within the callback's
	// limits. An error means that nothing was sent: it is a *TestRefusedError, or the owner of the
	// callback does not respond.
	Test(ctx context.Context, cb relay.Callback, ev relay.Event,
		inspect *sender.Inspection) (relay.AttemptRecord, error)
}

// TestRefusedError means that a callback may not be tested now.
type TestRefusedError struct {
	Reason string        // a sentence for the caller
	Again  time.Duration // when to try again
}

func (e *TestRefusedError) Error() string { return e.Reason }

// Status is the present state of a callback.
type Status struct {
	Health     CallbackHealth
	Backlog    int     // events that wait
	LagSeconds float64 // age of the oldest of them
	Expired    int     // deliveries that have expired
	Slowed     CallbackSlowed
}

// Poller is what the API needs from the part that polls.
type Poller interface {
	// PollNow starts a poll of the connection. An error means that its owner does not respond, or
	// polls nothing now.
	PollNow(ctx context.Context, connection string) error
}

// Reconciler is what the API needs from the part that reads open orders again.
type Reconciler interface {
	// Reconcile requests that a connection's open orders are read again, and returns its document
	// once that is stored. An error means that the owner does not respond, or could not store it.
	Reconcile(ctx context.Context, connection string, delivered bool) (relay.Reconciliation, error)
}

// Resolver is what the API needs from the part that reads orders.
type Resolver interface {
	// Doing returns what only the owners know about connections, for those whose owners respond.
	Doing(ctx context.Context, connections []string) map[string]Doing
	// Retry resolves an unresolved notification now. The error explains why it is not relay.RetryResolved; the
	// vendor's errors are those of internal/audatex.
	Retry(ctx context.Context, unresolved string) (relay.RetryOutcome, error)
	// RetryAll retries several notifications, those of each connection in the order of their inbox
	// entries, and calls each with the results.
	RetryAll(ctx context.Context, unresolved []relay.Unresolved,
		each func(id string, outcome relay.RetryOutcome, err error))
}

// Doing is what only the owner of a connection knows about it.
type Doing struct {
	// Waiting is how many notifications are stored and not resolved; nil if the owner does not
	// know.
	Waiting *int `json:"waiting,omitempty"`
	// Unstored is why a response from the vendor's queue is not stored yet, or "" if there is none.
	Unstored string `json:"unstored,omitempty"`
}

// Vendor is what the API asks the vendor for. Its errors are those of internal/audatex.
type Vendor interface {
	Assessment(ctx context.Context, connection relay.Connection, originator, number string) (string, error)
	Unsubscribe(ctx context.Context, connection relay.Connection, subscription string) error
}

// Config is what New needs. The handlers use the store directly; what only another part can do (send a sample, poll
// now, ask the vendor) is a small interface. All fields are required unless their zero value is documented.
type Config struct {
	Store  *store.Store
	Keys   *access.Keys
	Admins *access.Admins
	// PublicURL is the relay's public address without a trailing slash. If it is empty, links are
	// relative.
	PublicURL string
	// SchemaURL is the absolute address of the schemas in sample events, the same as in published
	// ones. Empty means PublicURL.
	SchemaURL string
	// UserAgent is what deliveries carry in User-Agent.
	UserAgent string
	// CallbackNets are private networks that callbacks may reach (RELAY_CALLBACK_ALLOW_CIDRS); none
	// if empty.
	CallbackNets []netip.Prefix
	// Proxies are trusted to name the address that a request came from (RELAY_TRUSTED_PROXIES);
	// none if empty.
	Proxies ingress.Proxies
	// Waiting limits the requests that wait for an event, the vendor or a receiver. Zero means
	// 1,000, and 250 per address.
	Waiting ingress.Bounds
	// Ingress counts failed authentications; nil means that the counts are not exposed.
	Ingress *ingress.Metrics
	// Restored is when a backup was last restored (topology.Mark). Earlier log positions belong to
	// other events.
	Restored time.Time
	// Encryption returns the keys that encrypt the secrets in the store.
	Encryption func() store.KeyStatus
	Doctor     Doctor
	Dispatcher Dispatcher
	Replays    Replays
	Poller     Poller
	Reconciler Reconciler
	Resolver   Resolver
	Vendor     Vendor
	// Consents makes consent links.
	Consents *consent.Service
	// Ready returns why requests should not be sent to this replica yet, or nil.
	Ready func() error
	Log   *slog.Logger
	// Metrics may be nil: then metrics are kept and shown to nobody.
	Metrics prometheus.Registerer
	// Owns reports whether this replica works on a connection: it shows what is set aside of it. Nil: it works on all.
	Owns func(connection string) bool

	// Set by tests alone.
	ratePerSecond  float64       // of each key; 50 if zero
	burst          int           // 200 if zero
	testsPerSecond float64       // of the callbacks of each client; 1 if zero
	testBurst      int           // 5 if zero
	failures       int           // of an address before it is slowed down; ingress.DefaultFailures if zero
	sweepEvery     time.Duration // how often callbacks without a client are looked for; 30 s if zero
	readTimeout    time.Duration // how long a request's body may take to arrive; 30 s if zero
}

// API serves the HTTP API. Lists wait for Run, and long polls are woken by it.
type API struct {
	c        Config
	contract *contract
	limits   *limits
	waiting  *waiting
	tests    *limits // by client
	failures failures
	metrics  *metrics
	unknown  *ingress.Guesses // bounds the log's lines about paths that do not exist
	bodies   *turns
	reads    *turns
	clients  *turns        // for changes of a client's list of callbacks
	counting *turns        // by client: one place for each that waits for one of counts, or has it
	large    chan struct{} // one place for each large body that is being read
	checks   chan struct{} // one place for each body that is being checked
	counts   chan struct{} // one place for each selection of a replay that is being counted
	feed     *feed
	audit    *audit.Log
	// Copies of what is stored, for lists and quotas. The copy of the clients is in Keys.
	callbacks   *store.Mirror[store.SealedCallback]
	replays     *store.Mirror[relay.Replay] // in groups by client
	connections *store.Mirror[relay.Connection]
	asides      *store.Mirror[store.Aside] // unresolved notifications
	requests    *store.Mirror[store.RequestSize]

	pages           func() (*apidocs.Pages, error) // made when the first is asked for
	unresolvedBytes int                            // the limit for one page of unresolved notifications
	remembered      *remembered

	drain   chan struct{}
	drained sync.Once
}

// New returns the API.
func New(c Config) (*API, error) {
	c.ratePerSecond, c.burst = cmp.Or(c.ratePerSecond, 50), cmp.Or(c.burst, 200)
	c.testsPerSecond, c.testBurst = cmp.Or(c.testsPerSecond, 1), cmp.Or(c.testBurst, 5)
	c.sweepEvery, c.readTimeout = cmp.Or(c.sweepEvery, 30*time.Second), cmp.Or(c.readTimeout, 30*time.Second)
	c.SchemaURL = cmp.Or(c.SchemaURL, c.PublicURL)
	if c.Waiting.Total == 0 {
		c.Waiting = ingress.Bounds{Total: 1000, PerAddress: 250}
	}
	if c.Ingress == nil {
		c.Ingress = ingress.NewMetrics(nil)
	}
	contract, err := embedded()
	if err != nil {
		return nil, err
	}
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	a := &API{
		c: c, contract: contract, limits: newLimits(c.ratePerSecond, c.burst), waiting: newWaiting(c.Waiting),
		tests: newLimits(c.testsPerSecond, c.testBurst), failures: newFailures(c.Ingress, c.failures), unknown: ingress.NewGuesses(0),
		bodies: newTurns(bodiesOfKey), reads: newTurns(readsOfKey), clients: newTurns(1),
		large: make(chan struct{}, largeBodies), checks: make(chan struct{}, checkedOnce),
		counts: make(chan struct{}, countsAtOnce), counting: newTurns(countsOfClient),
		remembered: newRemembered(), unresolvedBytes: unresolvedBytes,
		metrics: newMetrics(c.Metrics),
		feed:    newFeed(c.Store.Events, c.Log), drain: make(chan struct{}), audit: audit.New(c.Store.Audit),
		pages: sync.OnceValues(func() (*apidocs.Pages, error) { return apidocs.New(c.PublicURL) }),
	}
	a.callbacks = store.NewMirror(store.MirrorConfig[store.SealedCallback]{
		Bucket: c.Store.Sealed, Log: c.Log, What: "callback",
		Group: func(cb store.SealedCallback) string { return cb.Client },
	})
	a.replays = store.NewMirror(store.MirrorConfig[relay.Replay]{
		Bucket: c.Store.Replays, Log: c.Log, What: "replay", Group: func(doc relay.Replay) string { return doc.Client },
	})
	a.connections = store.NewMirror(store.MirrorConfig[relay.Connection]{
		Bucket: c.Store.Connections, Log: c.Log, What: "connection",
	})
	a.asides = store.NewMirror(store.MirrorConfig[store.Aside]{
		Bucket: c.Store.Asides, Log: c.Log, What: "unresolved", Group: func(u store.Aside) string {
			return u.Connection
		},
	})
	if c.Owns == nil {
		c.Owns = func(string) bool { return true }
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(asides{a.asides, c.Owns, a.gone})
	}
	a.requests = store.NewMirror(store.MirrorConfig[store.RequestSize]{
		Bucket: c.Store.RequestSizes, Log: c.Log, What: "request", OnChange: a.remembered.changed,
	})
	return a, nil
}

// Run wakes long polls, keeps the copies for lists up to date, and removes callbacks without a
// client, until ctx ends.
func (a *API) Run(ctx context.Context) {
	var parts sync.WaitGroup
	for _, run := range []func(context.Context){
		a.feed.run, a.callbacks.Run, a.replays.Run, a.connections.Run, a.asides.Run, a.requests.Run, a.sweep,
	} {
		parts.Go(func() { run(ctx) })
	}
	parts.Wait()
}

// Recheck wakes the waiting requests of a client, which then check their keys again. It must be
// called after the client or one of its keys has changed. It does not block, and a may be nil.
func (a *API) Recheck(client string) {
	if a != nil {
		a.feed.wake(func(w *waiter) bool { return w.client == client })
	}
}

// Drain ends waiting requests and makes the replica not ready. It must be called before the server
// shuts down.
func (a *API) Drain() { a.drained.Do(func() { close(a.drain) }) }

// Handler returns a router for the contract's routes.
func (a *API) Handler() chi.Router {
	r := chi.NewRouter()
	r.Use(a.begin)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { a.fail(w, r, notFound()) })
	r.MethodNotAllowed(a.methodNotAllowed(r))
	// With, not Use: these run after the router has chosen, and before the generated code binds
	// parameters.
	a.routes(r.With(a.passing(a.identify, a.checkHeaders, a.authenticate, a.authorize, a.validate, a.hideForeign)))
	return r
}

// unbound responds to a parameter that passed validation, and that the generated code nevertheless
// could not parse.
func (a *API) unbound(w http.ResponseWriter, r *http.Request, name string, err error) {
	refusal := badParameter(name, "cannot be read")
	refusal.cause = err
	a.fail(w, r, refusal)
}

// refuse returns the problem for a part of the relay that does not respond, or cannot do its work
// now.
func refuse(what string, err error) error {
	return &problem{kind: kindBusy, detail: what, retryAfter: 5 * time.Second, cause: fmt.Errorf("%s: %w", what, err)}
}
