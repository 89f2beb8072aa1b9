package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/consent"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/doctor"
	"github.com/audatex-relay/relay/internal/group"
	"github.com/audatex-relay/relay/internal/httpapi"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/limits"
	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/owners"
	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/publisher"
	"github.com/audatex-relay/relay/internal/quota"
	"github.com/audatex-relay/relay/internal/reconciler"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/replay"
	"github.com/audatex-relay/relay/internal/resolver"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/shard"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// addresses are where a started relay listens, and what it counts.
type addresses struct {
	api, metrics, nats string
	registry           *prometheus.Registry
}

// startPatience is how long the start waits for the callbacks to be loaded before it reports that it serves.
const startPatience = time.Minute

// serve builds every part in the order in which they need one another, runs them until stop ends, and stops them in
// the opposite order. Started is called once the relay serves.
func serve(stop context.Context, c settings.Config, log *slog.Logger, started func(addresses)) (failed error) {
	ctx, fail := context.WithCancelCause(stop) // it also ends with the first part that fails
	defer fail(nil)
	began, embedded := time.Now(), c.NATSURL == ""
	userAgent := "audatex-relay/" + buildVersion()
	registry := newRegistry()
	parts, err := limits.Divide(limits.Needs{
		Embedded: embedded, Subscribers: c.NATSListen != "", VendorRate: c.AudatexRate, VendorTimeout: c.AudatexTimeout.D(),
		Proxies: c.Proxies,
	})
	if err != nil {
		return settings.Wrong("RLIMIT_NOFILE", "%w", err)
	}
	ingressMetrics := ingress.NewMetrics(registry)

	// Listening comes first: a wrong address is a setting's error, and nobody gets a response before there is one.
	api, err := listen("RELAY_HTTP_ADDR", c.HTTPAddr, "api", parts.API, ingressMetrics, log)
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	metrics, err := listen("RELAY_METRICS_ADDR", c.MetricsAddr, "metrics", parts.Metrics, ingressMetrics, log)
	if err != nil {
		return err
	}
	defer func() { _ = metrics.Close() }()
	front := &httpapi.Front{}
	front.Open(consent.Beside(consent.Starting(c.PublicURL), httpapi.Starting(c.PublicURL, front.Ready)))
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	running := group.Group{OnFailure: fail}
	var toClose closers // used by what runs
	defer func() {
		stopServing()
		ended := running.Wait()
		if ended != nil && stop.Err() == nil && errors.Is(failed, context.Canceled) { // the start has ended because of it
			failed = nil
		}
		if failed = errors.Join(failed, ended); failed == nil {
			log.Info("stopped")
		}
		toClose.close()
	}()
	running.Go(serving, "the HTTP API", func(ctx context.Context) error {
		return ingress.Serve(ctx, httpapi.NewServer(front, log), api)
	})
	scraped, guard := metricsServer(registry, relay.NewSecret(c.MetricsToken), ingressMetrics, log)
	running.Go(serving, "the metrics", func(ctx context.Context) error {
		return ingress.Serve(ctx, scraped, metrics)
	})

	// The store.
	start := start{log: log, waiting: front.Waiting}
	bus, nc, err := start.connect(ctx, c.StoreConfig, c.Listen, natsd.Limits{
		Connections: parts.Subscribers, Pending: parts.SubscriberPending, Together: parts.SubscribersPending,
	}, ingressMetrics)
	if err != nil {
		return err
	}
	toClose.add(bus.Stop, nc.Close)
	parts.Log(log)
	_, keyless := os.Stat(filepath.Join(c.DataDir, store.KeyFile))
	sealer, err := newSealer(c.Keyset, c.DataDir)
	if err != nil {
		return err
	}
	var diskRoom *store.Room
	if embedded {
		diskRoom = store.NewRoom(c.DataDir)
	}
	var s *store.Store
	if err := start.step(ctx, "the store cannot be opened", func() (err error) {
		s, err = store.Open(ctx, store.Config{
			Conn: nc, Sealer: sealer, Room: diskRoom, Log: log,
			Topology: topology.Topology{Prefix: c.NATSPrefix, Replicas: c.StreamReplicas, Retention: c.Retention.D()},
		})
		return err
	}); err != nil {
		return err
	}
	sizes := store.NewSizes(s)
	registry.MustRegister(s.Health().Collector(), sizes)
	running.Go(serving, "the store's health", s.Run)
	running.Go(serving, "the store's size", neverFails(sizes.Run))
	if err := start.step(ctx, "what the keys must open cannot be read", func() error {
		return checkKeys(ctx, s, c, errors.Is(keyless, fs.ErrNotExist))
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
	admins := access.NewAdmins(c.Admins)
	uses := access.NewUses(access.UsesConfig{Bucket: s.Uses, Clients: s.Clients, Log: log})
	keys = access.New(access.Config{Clients: s.Clients, Uses: uses, Log: log, Changed: func(client string) {
		bus.Recheck(client)
		events.Changed()
		apis.Recheck(client)
	}})
	bus.Admit(keys)
	showClients(registry, bus)

	// The vendor.
	budget := audatex.NewBudget(c.AudatexRate)
	if !embedded {
		budget.Allow(0, 1) // until this replica has its share
	}
	vendorMetrics := audatex.NewMetrics(registry)
	dialer := audatex.NewBoundedDialer(parts.Vendor)
	client, err := audatex.New(audatex.Config{
		BaseURL: c.AudatexBaseURL, MaxOrder: s.MaxDocument, UserAgent: userAgent, Timeout: c.AudatexTimeout.D(), Budget: budget,
		Metrics: vendorMetrics, Logger: log, DialContext: dialer.DialContext,
	})
	if err != nil {
		return settings.Wrong("RELAY_AUDATEX_BASE_URL", "%w", err)
	}
	toClose.add(client.Close)
	owned := shard.NewOwned(log)
	tokens, err := audatex.NewTokens(audatex.TokensConfig{
		AuthURL: c.AudatexAuthURL, TokenURL: c.AudatexTokenURL, ClientID: c.AudatexClientID,
		ClientSecret: relay.NewSecret(c.AudatexClientSecret), AuthStyle: audatex.AuthStyle(c.AudatexAuthStyle),
		Scopes: c.AudatexScopes, UserAgent: userAgent, Timeout: c.AudatexTimeout.D(), Keep: true, Exclusive: embedded,
		Store: s.Tokens, Budget: budget, Metrics: vendorMetrics, Logger: log, DialContext: dialer.DialContext,
		Lease: func(connection string) (audatex.Lease, bool) { return owned.Lease(connection) },
	})
	if err != nil {
		return settings.Wrong("RELAY_AUDATEX_TOKEN_URL", "%w", err)
	}
	consents, err := consent.New(consent.Config{
		Store: s, Client: client, Tokens: tokens, Budget: budget, PublicURL: c.PublicURL, AuthURL: c.AudatexAuthURL,
		ClientID: c.AudatexClientID, Scopes: c.AudatexScopes, PKCE: c.AudatexPKCE == "on", ReturnOrigins: c.ConsentReturnOrigins,
		CallBound: c.AudatexTimeout.D(), Exclusive: embedded, Proxies: c.Proxies, Metrics: consent.NewMetrics(registry), Log: log,
	})
	if err != nil {
		return settings.Wrong("RELAY_PUBLIC_URL", "%w", err)
	}
	asking := owners.New(owners.Config{Conn: nc, Topology: s.Topology(), Log: log})
	vendor := &vendor{store: s, client: client, tokens: tokens, owners: asking}

	// The stages.
	var mark topology.Mark
	if err := start.step(ctx, "the mark of the stored formats cannot be read", func() (err error) {
		mark, err = s.Mark(ctx)
		return err
	}); err != nil {
		return err
	}
	publishing := publisher.New(publisher.Config{
		Store: s, PublicURL: schemaBase(c, api.Addr()), Location: c.Location, Ahead: time.Duration(mark.Ahead) * time.Microsecond,
		Metrics: publisher.NewMetrics(registry), Log: log,
	})
	known := &knownConnections{}
	reconciling := reconciler.New(reconciler.Config{
		Store: s, Orders: unhurried{vendor}, Publisher: publishing, Connections: known, Night: reconciler.Night(c.Night), Grace: c.ShutdownGrace.D(),
		Metrics: reconciler.NewMetrics(registry), Log: log,
	})
	polling := poller.New(poller.Config{
		Store: s, Session: vendor.session, Topic: c.AudatexTopic, Operations: publishing, Reconciler: reconciling,
		Interval: c.PollInterval.D(), PollBound: client.PollBound(), Sooner: c.PollSooner.D(),
		SoonerFor: c.PollSoonerFor.D(), Short: budget.Short, Exclusive: embedded, Grace: c.ShutdownGrace.D(), Log: log, Metrics: poller.NewMetrics(registry),
	})
	known.Poller = polling
	resolving := resolver.New(resolver.Config{
		Store: s, Orders: vendor, Publisher: publishing, Grace: c.ShutdownGrace.D(), Metrics: resolver.NewMetrics(registry), Log: log,
	})
	sending := sender.New(sender.Config{
		AllowCIDRs: c.Allow, Proxy: c.Proxy, MaxConnections: parts.ReceiverConnections, UserAgent: userAgent,
		RootCAs: c.Roots,
	})
	toClose.add(sending.Close)
	delivering := delivery.New(delivery.Config{
		Store: s, Sender: sending, MaxAttempts: parts.Attempts, HeldBytes: parts.HeldBytes, Metrics: registry, Log: log,
	})
	dispatching := dispatcher.New(dispatcher.Config{
		Store: s, Deliverer: delivering, Operational: publishing, Schedule: c.Schedule, Grace: c.ShutdownGrace.D(),
		RingBytes: parts.RingBytes, Metrics: registry, Log: log,
	})
	replaying := replay.New(replay.Config{
		Store: s, Deliverer: delivering, Callbacks: dispatching, Grace: c.ShutdownGrace.D(), Metrics: registry, Log: log,
	})
	asking.Handle(answers(polling, reconciling, resolving, dispatching, replaying, tokens))

	// What is served.
	examining := doctor.New(doctor.Config{
		Store: s, Conn: nc, Embedded: embedded, DataDir: c.DataDir, Sender: sending, Version: buildVersion(), Replica: replicaName(),
		Started:     append(doctor.InTheClear(c.InTheClear()), doctor.Descriptors(parts)...),
		VendorHosts: doctor.VendorHosts(c.AudatexBaseURL, c.AudatexTokenURL), Rate: c.AudatexRate, Interval: c.PollInterval.D(),
		VendorTurn: func(ctx context.Context) error { return budget.Wait(ctx, audatex.PriorityPoll, "") },
		Encryption: resealing.Status, Health: callbacks{dispatching, delivering, asking}.health,
	})
	apis, err = httpapi.New(httpapi.Config{
		Store: s, Keys: keys, Admins: admins, PublicURL: c.PublicURL, SchemaURL: schemaBase(c, api.Addr()), CallbackNets: c.Allow,
		Restored: mark.Restored, Encryption: resealing.Status, Proxies: c.Proxies, Waiting: parts.Waiting, Ingress: ingressMetrics,
		UserAgent: userAgent, Doctor: examining,
		Dispatcher: callbacks{dispatching, delivering, asking}, Replays: replaying, Poller: pollers{asking}, Reconciler: reconcilers{asking},
		Resolver: notifications{resolving, vendor},
		Vendor:   vendor, Consents: consents, Ready: front.Ready, Log: log, Metrics: registry, Owns: owned.Owns,
	})
	if err != nil {
		return err
	}
	registry.MustRegister(keys.Expiring(owned.Owns))

	// Before this replica does anything, what was read is compared with the logs; then it becomes known to the others. What
	// reads the log of events comes first, as the others report by events what they set back.
	setBack := func(ctx context.Context, lost *store.LostError) error {
		for _, prepare := range []func(context.Context, *store.LostError) error{
			dispatching.Prepare, replaying.Prepare, resolving.Prepare, polling.Prepare,
		} {
			if err := prepare(ctx, lost); err != nil {
				return err
			}
		}
		return nil
	}
	if err := start.step(ctx, "what was read cannot be compared with the logs", func() error { return setBack(ctx, nil) }); err != nil {
		return fmt.Errorf("compare what was read with the logs: %w", err)
	}
	running.Go(serving, "the logs", func(ctx context.Context) error { return s.WatchLogs(ctx, setBack) })
	member, formats, err := start.join(ctx, s, embedded, registry)
	if err != nil {
		return err
	}
	quota.WarnOfDemand(ctx, s, c.AudatexRate, c.PollInterval.D(), log)
	throttles := quota.NewThrottles(s, member.SetThrottle, log)
	throttles.Restore(ctx, budget)
	budget.OnBacklog(resolving.Behind)
	share := quota.Share{
		Rate: c.AudatexRate, Budget: budget, Connections: func() (own, all int) { return owned.Count(polling.Count()) },
		Members: func() (int, relay.Throttle) { return liveReplicas(member) },
	}

	// Everything runs. Sharing stops first and with it the work on every shard, then the stages; what serves goes on
	// until they have drained.
	front.Open(consent.Beside(consents, apis.Handler()))
	if c.AdminTokenFile != "" || c.AdminTokensFile != "" {
		running.Go(serving, "the administrators' tokens", neverFails(func(ctx context.Context) {
			settings.Follow(ctx, log, c.Rereads, "the administrators' tokens", c.ReadAdmins, func(read []access.Admin) { admins.Renew(read, log) })
		}))
	}
	if c.MetricsTokenFile != "" {
		running.Go(serving, "the token of /metrics", neverFails(func(ctx context.Context) {
			settings.Follow(ctx, log, c.Rereads, "the token of /metrics", c.ReadMetricsToken, func(token string) {
				if guard.Renew(token) {
					log.Warn("the token of /metrics has changed")
				}
			})
		}))
	}
	if c.CallbackCAFile != "" {
		running.Go(serving, "the authorities of callbacks", neverFails(func(ctx context.Context) {
			settings.Follow(ctx, log, c.Rereads, "the authorities of callbacks", c.ReadRoots, func(roots *x509.CertPool) {
				if sending.Trust(roots) {
					log.Warn("the authorities of callbacks have changed")
				}
			})
		}))
	}
	running.Go(serving, "the encryption keys", neverFails(resealing.Run))
	running.Go(serving, "the API keys", neverFails(keys.Run))
	running.Go(serving, "the uses of API keys", neverFails(func(ctx context.Context) { uses.Run(ctx, keys, publishing) }))
	running.Go(serving, "the copy of the log", func(ctx context.Context) error { return runEvents(ctx, events, keys) })
	running.Go(serving, "the consents", neverFails(consents.Run))
	running.Go(serving, "the API's feed", neverFails(apis.Run))
	if !embedded { // the only replica there can be has the whole of it
		running.Go(serving, "the share of the vendor's budget", share.Run)
	}
	running.Go(serving, "what the vendor has asked by its 429s", throttles.Run)
	running.Go(serving, "the bound of garbage", func(ctx context.Context) error {
		return limits.BoundGarbage(ctx, func() int { _, all := owned.Count(polling.Count()); return all })
	})
	stages, sharing := group.Group{OnFailure: fail}, group.Group{OnFailure: fail}
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	stages.Go(working, "the callbacks as configured", delivering.Run)
	stages.Go(working, "the dispatcher", dispatching.Run)
	stages.Go(working, "the replays", replaying.Run)
	stages.Go(working, "the resolver", resolving.Run)
	stages.Go(working, "the poller", polling.Run)
	stages.Go(working, "the reconciler", reconciling.Run)
	owning, stopOwning := context.WithCancel(ctx)
	defer stopOwning()
	work := []shard.Part{
		{Name: "poll", Own: polling.Own}, {Name: "resolve", Own: resolving.Own}, {Name: "reconcile", Own: reconciling.Own},
		{Name: "deliver", Own: dispatching.Own}, {Name: "replay", Own: replaying.Own}, {Name: "answer", Own: asking.Serve},
	}
	sharing.Go(owning, "the share of the work", func(ctx context.Context) error {
		return member.Run(ctx, func(ctx context.Context, lease *shard.Lease) { owned.Work(ctx, lease, work) })
	})
	sharing.Go(owning, "the formats of the store", func(ctx context.Context) error {
		return formats.Run(ctx, member.Marked())
	})

	select { // the API is served already; it is not ready
	case <-dispatching.Ready():
	case <-ctx.Done():
	case <-time.After(startPatience):
		log.Warn("the callbacks are not all loaded yet; serving without them", "after", startPatience.String())
	}
	if ctx.Err() == nil {
		front.Started()
		at := addresses{api: api.Addr().String(), metrics: metrics.Addr().String(), nats: bus.Addr(), registry: registry}
		log.Info("the relay serves", "version", buildVersion(), "api", at.api, "metrics", at.metrics, "nats", at.nats,
			"ready_after", time.Since(began).Round(time.Millisecond).String())
		started(at)
	}

	<-ctx.Done()
	if stop.Err() != nil {
		log.Info("stopping: nothing new is taken, attempts under way may end", "grace", c.ShutdownGrace.String())
	}
	stopped := time.Now()
	front.Drain()
	apis.Drain()
	stopOwning()
	failed = sharing.Wait()
	stopWorking()
	failed = errors.Join(failed, stages.Wait())
	closing, cancel := context.WithDeadline(context.WithoutCancel(ctx), refreshesEnd(stopped, time.Now(), c.ShutdownGrace.D()))
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
	return failed
}

// closers are what is closed once nothing uses it any more, the last one first.
type closers []func()

func (c *closers) add(f ...func()) { *c = append(*c, f...) }

func (c *closers) close() {
	for _, f := range slices.Backward(*c) {
		f()
	}
}

// neverFails makes a part of a group of a function that returns no error.
func neverFails(run func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error { run(ctx); return nil }
}

// lastRefresh is what token refreshes under way get at least when everything else has ended, as a response that is
// cut off may cost a consent. It is little, as a process manager kills the relay five seconds after the grace.
const lastRefresh = 2 * time.Second

// refreshesEnd is until when token refreshes may go on: to the end of the same grace that the attempts had.
func refreshesEnd(stopped, now time.Time, grace time.Duration) time.Time {
	end, least := stopped.Add(grace), now.Add(lastRefresh)
	if end.Before(least) {
		return least
	}
	return end
}
