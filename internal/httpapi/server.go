package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/consent"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Dispatcher is what the API needs of the part that delivers.
type Dispatcher interface {
	// Status answers how callbacks are doing, of those whose owners answer.
	Status(ctx context.Context, callbacks []string) map[string]Status
	// Test sends one event to a callback over the path that deliveries take, within the callback's limits. An error means that it was
	// not tried: a *TestRefusedError, or the owner of the callback does not answer.
	Test(ctx context.Context, cb relay.Callback, ev relay.Event) (relay.AttemptRecord, error)
}

// TestRefusedError says that a callback may not be tested now.
type TestRefusedError struct {
	Reason string        // a sentence for the caller
	Again  time.Duration // when to try again
}

func (e *TestRefusedError) Error() string { return e.Reason }

// Status is how a callback is doing.
type Status struct {
	Health     CallbackHealth
	Backlog    int     // events that wait
	LagSeconds float64 // age of the oldest of them
}

// Poller is what the API needs of the part that polls.
type Poller interface {
	// PollNow starts a poll of the connection. An error means that its owner did not answer, or polls nothing now.
	PollNow(ctx context.Context, connection string) error
}

// Reconciler is what the API needs of the part that reads open orders again.
type Reconciler interface {
	// Reconcile has a connection's open orders read again, and returns its document when that is stored. An error means that its owner
	// did not answer, or could not store it.
	Reconcile(ctx context.Context, connection string, delivered bool) (relay.Reconciliation, error)
}

// Resolver is what the API needs of the part that reads orders.
type Resolver interface {
	// Doing returns what only their owners know of connections, of those whose owners answer.
	Doing(ctx context.Context, connections []string) map[string]Doing
	// Retry resolves an unresolved notification now. The error tells why it is not Retried; the vendor's are those of internal/audatex.
	Retry(ctx context.Context, unresolved string) (Retry, error)
	// RetryAll is Retry of several, in the order of their inbox entries for each connection. It tells each what became of it.
	RetryAll(ctx context.Context, unresolved []relay.Unresolved, each func(id string, outcome Retry, err error))
}

// Doing is what only the owner of a connection knows of it.
type Doing struct {
	// Waiting is how many notifications are stored and not resolved; nil: the owner cannot tell.
	Waiting *int `json:"waiting,omitempty"`
	// Unstored is why an answer of the vendor's queue is not stored yet, "" if none is held.
	Unstored string `json:"unstored,omitempty"`
}

// Retry is what resolving an unresolved notification anew came to.
type Retry int

// How a retry ends.
const (
	Retried          Retry = iota // its event is in the log; it is unresolved no more
	RetryUnknown                  // there is no such unresolved notification
	RetryRefused                  // it still cannot be resolved, and stays
	RetryUnavailable              // the vendor or the store cannot be asked now
)

// Vendor is what the API asks the vendor for. Its errors are those of internal/audatex.
type Vendor interface {
	Assessment(ctx context.Context, connection relay.Connection, originator, number string) (string, error)
	Unsubscribe(ctx context.Context, connection relay.Connection, subscription string) error
}

// Config is what New needs. Everything must be there but where a zero value is said to mean something.
type Config struct {
	Store  *store.Store
	Keys   *access.Keys
	Admins *access.Admins
	// PublicURL is the relay's public address without a closing slash; empty: links are relative.
	PublicURL string
	// SchemaURL is where events say that their schemas are: absolute, as for those that are published. Empty: PublicURL.
	SchemaURL string
	// CallbackNets are private networks that callbacks may reach (RELAY_CALLBACK_ALLOW_CIDRS); none if empty.
	CallbackNets []netip.Prefix
	// Proxies are believed when they say for whom they speak (RELAY_TRUSTED_PROXIES); none if empty.
	Proxies ingress.Proxies
	// Waiting bounds the requests that wait for an event, the vendor or a receiver; 1,000, of which 250 from one address, if zero.
	Waiting ingress.Bounds
	// Ingress counts failed authentications; nil: nobody sees the counts.
	Ingress *ingress.Metrics
	// Restored is when a backup was last put back (topology.Mark): positions in the log from before are others'.
	Restored time.Time
	// Encryption returns what the secrets in the store are encrypted with.
	Encryption func() store.KeyStatus
	Dispatcher Dispatcher
	Poller     Poller
	Reconciler Reconciler
	Resolver   Resolver
	Vendor     Vendor
	// Consents makes consent links.
	Consents *consent.Service
	// Ready says why requests should not be sent here yet; nil: they may.
	Ready func() error
	// RatePerSecond and Burst limit each key; 50 and 200 if zero.
	RatePerSecond float64
	Burst         int
	// TestsPerSecond and TestBurst limit the tests of each client's callbacks; 1 and 5 if zero.
	TestsPerSecond float64
	TestBurst      int
	// Failures is how many failed authentications an address has before it is slowed; ingress.DefaultFailures if zero.
	Failures int
	// SweepEvery is how often callbacks are looked for whose client is gone; 30 s if zero.
	SweepEvery time.Duration
	// ReadTimeout is how long a request's body may take to come; 30 s if zero.
	ReadTimeout time.Duration
	Log         *slog.Logger
}

// API serves the HTTP API. Run must be running: lists wait for it, and long polls wake early by it.
type API struct {
	c        Config
	contract *contract
	limits   *limits
	waiting  *waiting
	tests    *limits // by client
	failures failures
	bodies   *turns
	reads    *turns
	clients  *turns        // of those who change which callbacks a client has
	large    chan struct{} // places of large bodies that are being read
	checks   chan struct{} // places of bodies that are being checked
	feed     *feed
	// Copies of what is stored: lists and quotas come from them. Those of clients are the keys'.
	callbacks   *store.Mirror[store.SealedCallback]
	connections *store.Mirror[relay.Connection]
	asides      *store.Mirror[store.Aside] // unresolved notifications
	requests    *store.Mirror[store.RequestSize]

	unresolvedBytes int // how many are read for one page of unresolved notifications
	remembered      *remembered

	drain   chan struct{}
	drained sync.Once
}

// New answers the API.
func New(c Config) (*API, error) {
	if c.RatePerSecond == 0 {
		c.RatePerSecond = 50
	}
	if c.SchemaURL == "" {
		c.SchemaURL = c.PublicURL
	}
	if c.Burst == 0 {
		c.Burst = 200
	}
	if c.SweepEvery == 0 {
		c.SweepEvery = 30 * time.Second
	}
	if c.TestsPerSecond == 0 {
		c.TestsPerSecond = 1
	}
	if c.TestBurst == 0 {
		c.TestBurst = 5
	}
	if c.ReadTimeout == 0 {
		c.ReadTimeout = 30 * time.Second
	}
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
		c: c, contract: contract, limits: newLimits(c.RatePerSecond, c.Burst),
		waiting: newWaiting(c.Waiting),
		tests:   newLimits(c.TestsPerSecond, c.TestBurst),
		bodies:  newTurns(bodiesOfKey), reads: newTurns(readsOfKey), clients: newTurns(1), large: make(chan struct{}, largeBodies), checks: make(chan struct{}, checkedOnce),
		failures: newFailures(c.Ingress, c.Failures), remembered: newRemembered(), unresolvedBytes: unresolvedBytes, feed: newFeed(c.Store.Events, c.Log), drain: make(chan struct{}),
	}
	a.callbacks = store.NewMirror(store.MirrorConfig[store.SealedCallback]{
		Bucket: c.Store.Sealed, Log: c.Log, What: "callback", Group: func(cb store.SealedCallback) string { return cb.Client },
	})
	a.connections = store.NewMirror(store.MirrorConfig[relay.Connection]{Bucket: c.Store.Connections, Log: c.Log, What: "connection"})
	a.asides = store.NewMirror(store.MirrorConfig[store.Aside]{
		Bucket: c.Store.Asides, Log: c.Log, What: "unresolved", Group: func(u store.Aside) string { return u.Connection },
	})
	a.requests = store.NewMirror(store.MirrorConfig[store.RequestSize]{
		Bucket: c.Store.Requests.Sizes, Log: c.Log, What: "request", OnChange: a.remembered.changed,
	})
	return a, nil
}

// Run wakes long polls, keeps the copies that lists come from, and removes callbacks without a client, until ctx ends.
func (a *API) Run(ctx context.Context) {
	var parts sync.WaitGroup
	for _, run := range []func(context.Context){a.feed.run, a.callbacks.Run, a.connections.Run, a.asides.Run, a.requests.Run, a.sweep} {
		parts.Go(func() { run(ctx) })
	}
	parts.Wait()
}

// Recheck wakes the waiting requests of a client, which look at their keys again. It is called after the client or one of
// its keys has changed, also before the API has been made (nil), and does not block.
func (a *API) Recheck(client string) {
	if a != nil {
		a.feed.wakeClient(client)
	}
}

// Drain ends waiting requests and makes the replica not ready. It is called before the server shuts down.
func (a *API) Drain() { a.drained.Do(func() { close(a.drain) }) }

// Handler answers the routes of the contract.
func (a *API) Handler() chi.Router {
	r := chi.NewRouter()
	r.Use(a.begin)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { a.fail(w, r, notFound()) })
	r.MethodNotAllowed(a.methodNotAllowed(r))
	// With, not Use: these run when the router has chosen, and before the generated code binds parameters.
	HandlerWithOptions(a, ChiServerOptions{
		BaseRouter:       r.With(a.identify, a.checkHeaders, a.authenticate, a.authorize, a.validate, a.hideForeign),
		ErrorHandlerFunc: a.unbound,
	})
	return r
}

// unbound answers for parameters that the generated code could not read although they passed validation.
func (a *API) unbound(w http.ResponseWriter, r *http.Request, err error) {
	if e, ok := errors.AsType[*InvalidParamFormatError](err); ok {
		a.fail(w, r, badParameter(e.ParamName, "cannot be read"))
		return
	}
	a.fail(w, r, &problem{kind: kindParameter, cause: err})
}

// refuse says that a part of the relay does not answer, or cannot do now what it is to.
func refuse(what string, err error) error {
	return &problem{kind: kindBusy, detail: what, retryAfter: 5 * time.Second, cause: fmt.Errorf("%s: %w", what, err)}
}
