package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/consent"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/group"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/reconciler"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

type serveCommand struct {
	settings
	CPUProfile string `name:"cpuprofile" hidden:"" help:"Write a CPU profile here when the relay stops."`
}

// Run serves until SIGTERM, then drains.
func (c *serveCommand) Run(p program) error {
	checked, err := c.check()
	if err != nil {
		return err
	}
	log := newLogger(p, checked)
	slog.SetDefault(log) // what libraries write by the log package goes the same way
	checked.warn(p, log)
	if c.CPUProfile != "" {
		stop, err := profile(c.CPUProfile)
		if err != nil {
			return wrong("--cpuprofile", "%w", err)
		}
		defer stop()
	}
	err = serve(p.ctx, checked, log, func(addresses) {})
	if err != nil && p.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info("stopped before it served")
		return nil
	}
	return err
}

// addresses are where a started relay listens.
type addresses struct {
	api, metrics, nats string
}

// startPatience is how long the start waits for the callbacks to be loaded before it says that it serves.
const startPatience = time.Minute

// serve builds every part in the order in which they need one another, runs them until ctx ends, and stops them in the
// opposite order. Started is called once the relay serves.
func serve(ctx context.Context, c config, log *slog.Logger, started func(addresses)) error {
	began := time.Now()
	userAgent := "audatex-relay/" + buildVersion()
	registry := newRegistry()
	parts, err := newResources(c)
	if err != nil {
		return err
	}
	doors := ingress.NewMetrics(registry)

	// Listening comes first: a wrong address is a setting's error, and nobody is answered before there is something to say.
	api, err := listen("RELAY_HTTP_ADDR", c.HTTPAddr, "api", parts.api, doors, log)
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	metrics, err := listen("RELAY_METRICS_ADDR", c.MetricsAddr, "metrics", parts.metrics, doors, log)
	if err != nil {
		return err
	}
	defer func() { _ = metrics.Close() }()
	state := &readiness{}
	front := newFront(withPages(consent.Starting(c.PublicURL), httpapi.Starting(c.PublicURL, state.ready)))
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	var running group.Group
	defer func() { stopServing(); _ = running.Wait() }() // when the start fails; else they have ended
	running.Go(serving, "the HTTP API", func(ctx context.Context) error {
		return ingress.Serve(ctx, httpapi.NewServer(front, log), api)
	})
	running.Go(serving, "the metrics", func(ctx context.Context) error {
		return ingress.Serve(ctx, metricsServer(registry), metrics)
	})

	// The store.
	bus, nc, err := connect(ctx, c, natsd.Limits{Connections: parts.subscribers, Pending: parts.subscriberPending, Together: parts.subscribersPending}, doors, log, state.waiting)
	if err != nil {
		return err
	}
	defer bus.Stop()
	defer nc.Close()
	parts.tell(log)
	_, missing := os.Stat(filepath.Join(c.DataDir, store.KeyFile))
	sealer, err := newSealer(c)
	if err != nil {
		return err
	}
	var room *store.Room
	if c.NATSURL == "" {
		room = store.NewRoom(c.DataDir)
	}
	var s *store.Store
	if err := patiently(ctx, log, "the store cannot be opened", state.waiting, func() (err error) {
		s, err = store.Open(ctx, store.Config{
			Conn: nc, Sealer: sealer, Room: room, Log: log,
			Topology: topology.Topology{Prefix: c.NATSPrefix, Replicas: c.StreamReplicas, Retention: c.Retention.d()},
		})
		return err
	}, store.Passing); err != nil {
		return err
	}
	registry.MustRegister(s.Health().Collector())
	running.Go(serving, "the store's health", s.Run)
	if err := patiently(ctx, log, "what the keys are to open cannot be read", state.waiting, func() error {
		return checkKeys(ctx, s, c, errors.Is(missing, fs.ErrNotExist))
	}, func(err error) bool {
		var setting *settingError // waiting does not mend it
		return !errors.As(err, &setting) && store.Passing(err)
	}); err != nil {
		return err
	}

	resealing := store.NewResealer(s, registry, log)

	// Who may do what.
	var keys *access.Keys
	events, err := newEvents(c, nc, s.Topology(), func() *access.Keys { return keys }, log)
	if err != nil {
		return err
	}
	var apis *httpapi.API
	admins := access.NewAdmins(c.admins)
	keys = access.New(access.Config{Clients: s.Clients, Log: log, Changed: func(client string) { bus.Recheck(client); events.Changed(); apis.Recheck(client) }})
	bus.Admit(keys)

	// The vendor.
	budget := audatex.NewBudget(c.AudatexRate)
	if c.NATSURL != "" {
		budget.Allow(0, 1) // until this replica has its share
	}
	vendorMetrics := audatex.NewMetrics(registry)
	dialer := newBoundedDialer(parts.vendor)
	client, err := audatex.New(audatex.Config{
		BaseURL: c.AudatexBaseURL, MaxOrder: s.MaxDocument, UserAgent: userAgent, Timeout: c.AudatexTimeout.d(), Budget: budget, Metrics: vendorMetrics, Logger: log,
		DialContext: dialer.DialContext,
	})
	if err != nil {
		return wrong("RELAY_AUDATEX_BASE_URL", "%w", err)
	}
	defer client.Close()
	held := &share{log: log}
	tokens, err := audatex.NewTokens(audatex.TokensConfig{
		AuthURL: c.AudatexAuthURL, TokenURL: c.AudatexTokenURL, ClientID: c.AudatexClientID, ClientSecret: relay.NewSecret(c.AudatexClientSecret),
		AuthStyle: audatex.AuthStyle(c.AudatexAuthStyle), Scopes: c.AudatexScopes, UserAgent: userAgent, Timeout: c.AudatexTimeout.d(), Store: s.Tokens, Budget: budget,
		Metrics: vendorMetrics, Logger: log, Exclusive: c.NATSURL == "", Lease: held.lease, DialContext: dialer.DialContext,
	})
	if err != nil {
		return wrong("RELAY_AUDATEX_TOKEN_URL", "%w", err)
	}
	consents, err := consent.New(consent.Config{
		Store: s, Client: client, Tokens: tokens, Budget: budget, PublicURL: c.PublicURL, AuthURL: c.AudatexAuthURL, ClientID: c.AudatexClientID,
		Scopes: c.AudatexScopes, PKCE: c.AudatexPKCE == "on", ReturnOrigins: c.ConsentReturnOrigins, CallBound: c.AudatexTimeout.d(),
		Exclusive: c.NATSURL == "", Proxies: c.proxies, Metrics: consent.NewMetrics(registry), Log: log,
	})
	if err != nil {
		return wrong("RELAY_PUBLIC_URL", "%w", err)
	}
	asking := owners.New(owners.Config{Conn: nc, Topology: s.Topology(), Log: log})
	vendor := &vendor{store: s, client: client, tokens: tokens, owners: asking}

	// The four stages.
	var mark topology.Mark
	if err := patiently(ctx, log, "the mark of the stored formats cannot be read", state.waiting, func() (err error) {
		mark, err = s.Mark(ctx)
		return err
	}, store.Passing); err != nil {
		return err
	}
	publishing := publisher.New(publisher.Config{
		Store: s, PublicURL: schemaBase(c, api.Addr()), Location: c.location, Ahead: time.Duration(mark.Ahead) * time.Microsecond, Metrics: publisher.NewMetrics(registry), Log: log,
	})
	known := &knownConnections{}
	reconciling := reconciler.New(reconciler.Config{
		Store: s, Orders: unhurried{vendor}, Publisher: publishing, Connections: known, Night: c.night, Grace: c.ShutdownGrace.d(),
		Metrics: reconciler.NewMetrics(registry), Log: log,
	})
	polling := poller.New(poller.Config{
		Store: s, Session: vendor.session, Topic: c.AudatexTopic, Operations: publishing, Reconciler: reconciling, Interval: c.PollInterval.d(), PollBound: client.PollBound(),
		Sooner: c.PollSooner.d(), SoonerFor: c.PollSoonerFor.d(), Short: budget.Short,
		Exclusive: c.NATSURL == "", Grace: c.ShutdownGrace.d(), Log: log, Metrics: poller.NewMetrics(registry),
	})
	known.Poller = polling
	resolving := resolver.New(resolver.Config{
		Store: s, Orders: vendor, Publisher: publishing, Grace: c.ShutdownGrace.d(),
		Metrics: resolver.NewMetrics(registry), Log: log,
	})
	sending := sender.New(sender.Config{AllowCIDRs: c.allow, Proxy: c.proxy, MaxConnections: parts.receiverConnections, UserAgent: userAgent})
	defer sending.Close()
	dispatching := dispatcher.New(dispatcher.Config{
		Store: s, Sender: sending, Operational: publishing, Schedule: c.schedule, Grace: c.ShutdownGrace.d(),
		MaxAttempts: parts.attempts, HeldBytes: parts.heldBytes, RingBytes: parts.ringBytes, Metrics: registry, Log: log,
	})

	asking.Handle(answers(polling, reconciling, resolving, dispatching, tokens))
	held.parts = []part{
		{"poll", polling.Own}, {"resolve", resolving.Own}, {"reconcile", reconciling.Own}, {"deliver", dispatching.Own}, {"answer", asking.Serve},
	}

	// What is served.
	apis, err = httpapi.New(httpapi.Config{
		Store: s, Keys: keys, Admins: admins, PublicURL: c.PublicURL, SchemaURL: schemaBase(c, api.Addr()), CallbackNets: c.allow, Restored: mark.Restored, Encryption: resealing.Status,
		Proxies: c.proxies, Waiting: parts.waiting, Ingress: doors, Dispatcher: callbacks{dispatching, asking}, Poller: pollers{asking}, Reconciler: reconcilers{asking}, Resolver: notifications{resolving, vendor}, Vendor: vendor, Consents: consents, Ready: state.ready, Log: log,
	})
	if err != nil {
		return err
	}

	// Before anything is written, every cursor is compared with its log; then this replica becomes known to the others.
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the cursors cannot be compared with the inbox", resolving.Prepare},
		{"the callbacks' cursors cannot be compared with the log", dispatching.Prepare},
	} {
		if err := patiently(ctx, log, step.what, state.waiting, func() error { return step.do(ctx) }, store.Passing); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	member, formats, err := join(ctx, c, s, registry, log, state.waiting)
	if err != nil {
		return err
	}
	warnOfBudget(ctx, s, c, log)
	throttled := newThrottles(s, member.SetThrottle, log)
	throttled.heed(ctx, budget)
	budget.OnThrottled(throttled.asked)
	part := apportion{
		rate: float64(c.AudatexRate), budget: budget, connections: func() (int, int) { return held.count(polling.Count()) },
		members: func() (int, relay.Throttle) { return live(member) },
	}

	// Everything runs. Sharing stops first and with it the work on every shard, then the stages; what serves goes on until they have drained.
	front.open(withPages(consents, apis.Handler()))
	running.Go(serving, "the administrators' tokens", (&adminFiles{config: c, admins: admins, log: log}).follow)
	running.Go(serving, "the encryption keys", func(ctx context.Context) error { resealing.Run(ctx); return nil })
	running.Go(serving, "the API keys", func(ctx context.Context) error { keys.Run(ctx); return nil })
	running.Go(serving, "the copy of the log", func(ctx context.Context) error { return runEvents(ctx, events, keys) })
	running.Go(serving, "the consents", func(ctx context.Context) error { consents.Run(ctx); return nil })
	running.Go(serving, "the API's feed", func(ctx context.Context) error { apis.Run(ctx); return nil })
	if c.NATSURL != "" { // the only replica there can be has the whole of it
		running.Go(serving, "the share of the vendor's budget", part.run)
	}
	running.Go(serving, "what the vendor has asked by its 429s", throttled.run)
	running.Go(serving, "the bound of garbage", func(ctx context.Context) error { return boundGarbage(ctx, polling.Count) })
	var stages, sharing group.Group
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	stages.Go(working, "the dispatcher", dispatching.Run)
	stages.Go(working, "the resolver", resolving.Run)
	stages.Go(working, "the poller", polling.Run)
	stages.Go(working, "the reconciler", reconciling.Run)
	owning, stopOwning := context.WithCancel(ctx)
	defer stopOwning()
	sharing.Go(owning, "the share of the work", func(ctx context.Context) error { return member.Run(ctx, held.work) })
	sharing.Go(owning, "the formats of the store", formats.Run)

	select { // the API answers already; it says that it is not ready
	case <-dispatching.Ready():
	case <-ctx.Done():
	case <-time.After(startPatience):
		log.Warn("the callbacks are not all loaded yet; serving without them", "after", startPatience.String())
	}
	state.started()
	at := addresses{api: api.Addr().String(), metrics: metrics.Addr().String(), nats: bus.Addr()}
	log.Info("the relay serves", "version", buildVersion(), "api", at.api, "metrics", at.metrics, "nats", at.nats,
		"ready_after", time.Since(began).Round(time.Millisecond).String())
	started(at)

	var failed error
	select {
	case <-ctx.Done():
		log.Info("stopping: nothing new is taken, attempts under way may end", "grace", c.ShutdownGrace.String())
	case failed = <-sharing.Failed():
	case failed = <-stages.Failed():
	case failed = <-running.Failed():
	}
	stopped := time.Now()
	state.drain()
	apis.Drain()
	stopOwning()
	failed = errors.Join(failed, sharing.Wait())
	stopWorking()
	failed = errors.Join(failed, stages.Wait())
	closing, cancel := context.WithDeadline(context.WithoutCancel(ctx), refreshesEnd(stopped, time.Now(), c.ShutdownGrace.d()))
	defer cancel()
	var ending sync.WaitGroup
	ending.Go(func() {
		if err := consents.Close(closing); err != nil {
			log.Warn("a consent is still under way; the next start, or another replica, goes on with it", "error", err)
		}
	})
	if err := tokens.Close(closing); err != nil {
		log.Warn("a token refresh was given up; its intent tells the next start", "error", err)
	}
	ending.Wait()
	stopServing()
	failed = errors.Join(failed, running.Wait())
	if failed == nil {
		log.Info("stopped")
	}
	return failed
}

// listen listens on a setting's address, within bounds.
func listen(setting, address, name string, bounds ingress.Bounds, doors *ingress.Metrics, log *slog.Logger) (*ingress.Listener, error) {
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return nil, wrong(setting, "%w", err)
	}
	return ingress.NewListener(inner, name, bounds, doors, log), nil
}

// lastRefresh is what token refreshes under way get at least when everything else has ended, as an answer that is cut off may cost a
// consent: little, as whoever stops the relay kills it five seconds after the grace.
const lastRefresh = 2 * time.Second

// refreshesEnd is until when token refreshes may go on: to the end of the same grace that the attempts had.
func refreshesEnd(stopped, now time.Time, grace time.Duration) time.Time {
	end, least := stopped.Add(grace), now.Add(lastRefresh)
	if end.Before(least) {
		return least
	}
	return end
}

// schemaBase is where events say that their schemas are served. CloudEvents asks for an absolute address there, so without
// RELAY_PUBLIC_URL it is this machine's own.
func schemaBase(c config, api net.Addr) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	_, port, _ := net.SplitHostPort(api.String())
	return "http://localhost:" + port
}

// tokenRefresh is about how often the access token of a connection that is polled more often is refreshed.
const tokenRefresh = 24 * time.Minute

// warnOfBudget tells when ordinary polls and the refreshes that they need are alone more requests than the vendor's budget allows. Polls
// that come sooner use only what is left over.
func warnOfBudget(ctx context.Context, s *store.Store, c config, log *slog.Logger) {
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return // the poller meets the same trouble and tells it
	}
	polls, refreshes := 0.0, 0.0
	for _, e := range connections {
		interval := c.PollInterval.d()
		if e.Value.PollIntervalSeconds > 0 {
			interval = time.Duration(e.Value.PollIntervalSeconds * float64(time.Second))
		}
		if !e.Value.Paused {
			polls += float64(time.Minute) / float64(interval)
			refreshes += float64(time.Minute) / float64(max(interval, tokenRefresh))
		}
	}
	if polls+refreshes > float64(c.AudatexRate) {
		log.Warn("polling alone needs more requests than RELAY_AUDATEX_RATE allows; polls will come late. Agree on a higher rate with the vendor, or raise RELAY_POLL_INTERVAL",
			"connections", len(connections), "polls_per_minute", polls, "refreshes_per_minute", refreshes, "rate", c.AudatexRate)
	}
}
