package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

func TestMain(m *testing.M) {
	natstest.Waiting(4)
	os.Exit(m.Run())
}

// world is a store with what a healthy relay has in it, and everything around it.
type world struct {
	t      *testing.T
	store  *store.Store
	vendor *httptest.Server
	roots  *x509.CertPool
	date   func() string // what the vendor responds
	keys   store.KeyStatus
	health map[string]string
	config Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	raw, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(raw)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	nc := natstest.StartIn(t, dir)
	s, err := store.Open(t.Context(), store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}, Sealer: sealer,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, store: s, roots: x509.NewCertPool(), health: map[string]string{},
		keys: store.KeyStatus{CheckedAt: time.Now(), Writing: 7,
			Keys: []store.KeyUse{{ID: 7, Given: true, Secrets: 3}}},
		date: func() string { return time.Now().UTC().Format(http.TimeFormat) },
	}
	w.vendor = httptest.NewServer(http.HandlerFunc(func(a http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the vendor's host was asked with a token")
		}
		a.Header().Set("Date", w.date())
		a.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(w.vendor.Close)
	for n := range relay.Shards {
		w.put(s.Owners.Set(t.Context(), store.LeaseKey(n),
			store.Owner{Lease: &store.Lease{Replica: "a", Nonce: "b", Epoch: 1}}))
	}
	w.put(s.Owners.Set(t.Context(), store.MemberKey("a", "b"),
		store.Owner{Member: &store.Member{Replica: "a", Nonce: "b"}}))
	w.config = Config{
		Store: s, Conn: nc, Embedded: true, DataDir: dir, VendorHosts: []string{w.vendor.URL}, Rate: 100,
		Interval:   time.Minute,
		leaseTTL:   time.Hour, // nobody renews them here
		VendorTurn: func(context.Context) error { return nil }, Encryption: func() store.KeyStatus { return w.keys },
		Health: func(_ context.Context, ids []string) map[string]string {
			all := map[string]string{}
			for _, id := range ids {
				if all[id] = w.health[id]; w.health[id] == "silent" {
					delete(all, id)
				}
			}
			return all
		},
	}
	return w
}

func (w *world) put(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// connect makes a connection with a good token.
func (w *world) connect(id string, change func(*relay.Connection, *relay.TokenRecord, *relay.Poll)) {
	w.t.Helper()
	c := relay.Connection{ID: id, Generation: "g", Site: id, Level: relay.LevelSite, CreatedAt: time.Now()}
	token := relay.TokenRecord{RefreshToken: relay.NewSecret("a-refresh-token"), Generation: "g"}
	poll := relay.Poll{Generation: "g", Outcome: &relay.PollOutcome{At: time.Now()}}
	change(&c, &token, &poll)
	w.put(w.store.Connections.Set(w.t.Context(), id, c))
	_, err := w.store.Tokens.SaveToken(w.t.Context(), id, token, 0)
	w.put(err)
	w.put(w.store.Polls.Set(w.t.Context(), id, poll))
}

// callback registers a callback.
func (w *world) callback(id, address string, disabled *relay.Disabled) {
	w.t.Helper()
	cb := relay.Callback{ID: id, Client: "acme", Generation: "g", Disabled: disabled}
	cb.SetURL(address)
	w.put(w.store.Callbacks.Set(w.t.Context(), id, cb))
}

// client makes a client with a key that was made for so long and ends at a time.
func (w *world) client(id string, life time.Duration, ends time.Time) {
	w.t.Helper()
	key := relay.Key{ID: "k-1", Role: relay.RoleRead, CreatedAt: ends.Add(-life), ExpiresAt: &ends}
	w.put(w.store.Clients.Set(w.t.Context(), id,
		relay.Client{ID: id, Generation: "g", Keys: []relay.Key{key, {ID: "k-2"}}}))
}

// receiver serves TLS with a certificate that was made for a year and ends at a time.
func (w *world) receiver(ends time.Time) string {
	w.t.Helper()
	return w.receiverFor(365*24*time.Hour, ends)
}

func (w *world) receiverFor(life time.Duration, ends time.Time) string {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.put(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: ends.Add(-life), NotAfter: ends,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	w.put(err)
	certificate, err := x509.ParseCertificate(der)
	w.put(err)
	w.roots.AddCert(certificate)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		w.t.Error("a request was sent")
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	w.t.Cleanup(server.Close)
	return server.URL
}

// examine returns the report's troubles, one on each line.
func (w *world) examine() (troubles string, r Report) {
	w.t.Helper()
	w.config.Sender = sender.New(sender.Config{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		RootCAs: w.roots})
	defer w.config.Sender.Close()
	r, err := New(w.config).Examine(w.t.Context())
	w.put(err)
	var b strings.Builder
	for _, c := range r.Checks {
		if c.State == Trouble {
			fmt.Fprintf(&b, "%s %s: %s → %s\n", c.Area, c.Subject, c.Finding, c.Remedy)
			if c.Remedy == "" {
				w.t.Errorf("no remedy: %+v", c)
			}
		}
		for _, secret := range []string{"a-refresh-token", "s3cr3t"} {
			if strings.Contains(fmt.Sprint(c), secret) {
				w.t.Errorf("a secret is shown: %+v", c)
			}
		}
	}
	return b.String(), r
}

// owns renews the leases of some shards, and the record of a replica.
func (w *world) owns(replica string, shards ...int) {
	w.t.Helper()
	for _, n := range shards {
		w.put(w.store.Owners.Set(w.t.Context(), store.LeaseKey(n),
			store.Owner{Lease: &store.Lease{Replica: replica, Nonce: "b", Epoch: 1}}))
	}
	w.put(w.store.Owners.Set(w.t.Context(), store.MemberKey(replica, "b"),
		store.Owner{Member: &store.Member{Replica: replica, Nonce: "b"}}))
}

// TestWhatNobodyRenewsShowsNoReplica: a server that was killed may have records again that had expired, and never
// ends them.
func TestWhatNobodyRenewsShowsNoReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.leaseTTL = 3 * time.Second
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for lapsed := false; !lapsed; <-tick.C {
		at := w.store.Owners.Current(t.Context(), []string{store.MemberKey("a", "b")})[0]
		now, err := w.store.Owners.Now(t.Context())
		w.put(errors.Join(err, at.Err))
		lapsed = topology.Lapsed(at.Written, now, w.config.leaseTTL)
	}
	for n := range relay.Shards {
		if n != 3 {
			w.owns("c", n)
		}
	}
	if troubles, _ := w.examine(); !strings.Contains(troubles, "replicas : 1 shard has no owner") {
		t.Errorf("an old lease counts: %s", troubles)
	}
	for n := range relay.Shards {
		w.owns("c", n)
	}
	_, r := w.examine()
	if !slices.ContainsFunc(r.Checks, func(c Check) bool {
		return c.Finding == "1 replica, and every shard has an owner"
	}) {
		t.Errorf("an old member counts: %+v", r.Checks)
	}
}

// TestAWellRelay has nothing to mend, and every area was looked at.
func TestAWellRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("leeds", func(*relay.Connection, *relay.TokenRecord, *relay.Poll) {})
	w.callback("a", w.receiver(time.Now().Add(90*24*time.Hour))+"/hooks/s3cr3t", nil)
	// renewed every three days
	w.callback("b", w.receiverFor(6*24*time.Hour, time.Now().Add(3*24*time.Hour))+"/hooks/s3cr3t", nil)
	w.client("acme", 5*24*time.Hour, time.Now().Add(5*24*time.Hour))
	w.client("bolt", 365*24*time.Hour, time.Now().Add(-time.Hour))
	troubles, r := w.examine()
	if troubles != "" {
		t.Errorf("%s", troubles)
	}
	seen := map[Area]bool{}
	for _, c := range r.Checks {
		seen[c.Area] = true
		if c.State == Unchecked {
			t.Errorf("%+v", c)
		}
	}
	for _, area := range areas[1:] {
		if !seen[area] {
			t.Errorf("%s was not looked at", area)
		}
	}
}

// TestEveryFaultIsFound does one thing after another to a relay. Each is found, and nothing else.
func TestEveryFaultIsFound(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, row := range map[string]struct {
		fault func(*world)
		want  string
	}{
		"the vendor's clock": {func(w *world) {
			w.date = func() string { return time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat) }
		}, "vendor clock: this machine's clock and that of"},
		"the vendor is away": {func(w *world) { w.vendor.Close() }, "vendor 127.0.0.1:"},
		"a key is missing": {func(w *world) { w.keys.Keys = append(w.keys.Keys, store.KeyUse{ID: 9, Secrets: 2}) },
			"keys key 9: 2 secrets are encrypted with a key that is not given"},
		"a shard without an owner": {func(w *world) {
			_, revision, err := w.store.Owners.Get(w.t.Context(), store.LeaseKey(3))
			w.put(err)
			w.put(w.store.Owners.Delete(w.t.Context(), store.LeaseKey(3), revision))
		}, "replicas : 1 shard has no owner"},
		"a stream was changed": {func(w *world) {
			stream, err := w.store.JetStream().Stream(w.t.Context(), "relay_events")
			w.put(err)
			c := stream.CachedInfo().Config
			c.Duplicates = time.Minute / 2
			_, err = w.store.JetStream().UpdateStream(w.t.Context(), c)
			w.put(err)
		}, "nats relay_events: it is differs; duplicate_window is 30s"},
		"a stream is full": {func(w *world) {
			stream, err := w.store.JetStream().Stream(w.t.Context(), "relay_audit")
			w.put(err)
			c := stream.CachedInfo().Config
			c.MaxBytes = 1000
			_, err = w.store.JetStream().UpdateStream(w.t.Context(), c)
			w.put(err)
			_, err = w.store.JetStream().Publish(w.t.Context(),
				strings.ReplaceAll(strings.ReplaceAll(c.Subjects[0], "*", "x"), ">", "x"), make([]byte, 900))
			w.put(err)
		}, "storage relay_audit: "},
		"no disk": {func(w *world) {
			w.config.DataDir += "/gone"
			w.config.Started = []Check{Wrong(Settings, "X", "bad", "mend")}
		}, "settings X: bad"},
		"the rate": {func(w *world) { w.config.Rate = 1 },
			"settings RELAY_AUDATEX_RATE: polling alone needs 1 requests a minute, and it allows 1"},
		"no consent": {func(w *world) {
			w.connect("york", func(_ *relay.Connection, k *relay.TokenRecord, _ *relay.Poll) {
				k.ConsentRequiredSince, k.Reason = &now, "invalid_grant"
			})
		}, "connections york: it needs a consent since"},
		"no token": {func(w *world) {
			w.connect("york", func(_ *relay.Connection, k *relay.TokenRecord, _ *relay.Poll) {
				k.Generation = "former"
			})
		}, "connections york: nobody has consented yet"},
		"polls fail": {func(w *world) {
			w.connect("york", func(_ *relay.Connection, _ *relay.TokenRecord, p *relay.Poll) {
				p.FailingSince, p.Outcome.Error = &now, "HTTP 500"
			})
		}, "connections york: its polls fail since"},
		"the relay's own client is refused": {func(w *world) {
			w.connect("york", func(_ *relay.Connection, _ *relay.TokenRecord, p *relay.Poll) {
				p.FailingSince, p.Outcome.Result, p.Outcome.Error = &now, "forbidden",
					"the vendor refuses the relay's own client: invalid_client"
			})
		}, "correct RELAY_AUDATEX_CLIENT_ID or the client secret"},
		"no polls": {func(w *world) {
			w.connect("york", func(c *relay.Connection, _ *relay.TokenRecord, p *relay.Poll) {
				c.CreatedAt, p.PolledAt = now.Add(-48*time.Hour), now.Add(-13*time.Minute)
			})
		}, "connections york: it should have been polled at"},
		"a document that cannot be read": {func(w *world) {
			_, err := w.store.JetStream().Publish(w.t.Context(), "$KV.relay_connections.york", []byte("{"))
			w.put(err)
		}, "storage connections: 1 document cannot be read"},
		"disabled": {func(w *world) {
			w.callback("b", "https://gone.invalid/x",
				&relay.Disabled{Reason: "gone", At: now})
		}, "callbacks b: it is disabled since"},
		"failing": {func(w *world) { w.health["a"] = "failing" }, "callbacks a: its attempts fail"},
		"no name": {func(w *world) { w.callback("b", "https://no-such-host.invalid/s3cr3t", nil) },
			"callbacks https://no-such-host.invalid: the receiver of b cannot be reached"},
		"no name of the access tokens' server": {func(w *world) {
			cb := relay.Callback{ID: "b", Client: "acme", Generation: "g"}
			cb.SetURL(w.receiver(now.Add(90*24*time.Hour)) + "/s3cr3t")
			cb.Secrets.Auth = &relay.Auth{Type: relay.AuthOAuth2, TokenURL: "https://no-such-host.invalid/s3cr3t"}
			w.put(w.store.Callbacks.Set(w.t.Context(), "b", cb))
		}, "callbacks https://no-such-host.invalid: the receiver of b (its access tokens) cannot be reached"},
		"no listener": {func(w *world) { w.callback("b", "http://127.0.0.1:1/s3cr3t", nil) },
			"connection refused"},
		"a forbidden address": {func(w *world) { w.callback("b", "https://10.1.2.3/s3cr3t", nil) },
			"callbacks may not reach a private address"},
		"an expired certificate": {func(w *world) {
			w.callback("b", w.receiver(now.Add(-time.Hour))+"/s3cr3t", nil)
		}, "the certificate has expired"},
		"a key that ends soon": {func(w *world) {
			w.client("acme", 365*24*time.Hour, now.Add(13*24*time.Hour))
		}, "clients acme: its key k-1 ends at"},
		"a short key at its end": {func(w *world) { w.client("acme", 5*24*time.Hour, now.Add(24*time.Hour)) },
			"clients acme: its key k-1 ends at"},
		"a certificate that ends soon": {func(w *world) {
			w.callback("b",
				w.receiver(now.Add(10*24*time.Hour))+"/s3cr3t", nil)
		}, "the certificate of the receiver of b ends at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.connect("leeds", func(*relay.Connection, *relay.TokenRecord, *relay.Poll) {})
			w.callback("a", w.receiver(now.Add(90*24*time.Hour))+"/hooks/s3cr3t", nil)
			row.fault(w)
			if troubles, _ := w.examine(); strings.Count(troubles, "\n") != 1 || !strings.Contains(troubles, row.want) {
				t.Errorf("got %q, want one with %q", troubles, row.want)
			}
		})
	}
}

// TestEveryRefusalIsKnown: what NATS has refused stays known when something else goes wrong after it, with its number,
// and who heard of errors before still does.
func TestEveryRefusalIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	heard := 0
	w.config.Conn.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) { heard++ })
	d := New(w.config)
	refuse := func(subject string) {
		w.config.Conn.ErrorHandler()(w.config.Conn, nil,
			fmt.Errorf("%w: Publish to %q", nats.ErrPermissionViolation, subject))
	}
	refuse("relay.a")
	refuse("relay.b")
	refuse("relay.a")
	w.config.Conn.ErrorHandler()(w.config.Conn, nil, nats.ErrSlowConsumer)
	found := d.refused.found()
	if len(found) != 2 || !strings.Contains(found[0].Finding, "relay.b") ||
		!strings.Contains(found[1].Finding,
			`2 times since its start: nats: permissions violation: Publish to "relay.a"`) {
		t.Errorf("%+v", found)
	}
	for i := range 2 * refusalsKept {
		refuse(fmt.Sprintf("relay.%d", i))
	}
	if n := len(d.refused.found()); n != refusalsKept || heard != 4+2*refusalsKept {
		t.Errorf("%d are kept, and %d errors were handed on", n, heard)
	}
}

// TestAnAccountWithoutALimit: on a cluster nothing can warn before it is full then, and the report has a finding about
// it.
func TestAnAccountWithoutALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Embedded = false
	_, r := w.examine()
	if !slices.ContainsFunc(r.Checks, func(c Check) bool {
		return c.Area == Storage && c.Subject == "account" && c.State == Unchecked &&
			strings.Contains(c.Finding, "nothing can warn")
	}) {
		t.Errorf("%+v", r.Checks)
	}
}

// TestOneExaminationAtATime has a vendor that hangs: the second caller is refused, and the first gets a report without
// the vendor when its caller's time ends.
func TestOneExaminationAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began := make(chan struct{})
	w.config.VendorTurn = func(ctx context.Context) error { close(began); <-ctx.Done(); return ctx.Err() }
	w.config.Sender = sender.New(sender.Config{})
	t.Cleanup(w.config.Sender.Close)
	d := New(w.config)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := d.Examine(ctx)
		first <- err
	}()
	<-began
	if _, err := d.Examine(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("the second: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first, whose caller has gone: %v", err)
	}
}

// TestAnOwnerThatIsSilent has the owner of a callback not respond, while a receiver asks for less.
func TestAnOwnerThatIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.callback("a", w.receiver(time.Now().Add(90*24*time.Hour))+"/hooks/s3cr3t", nil)
	w.callback("b", w.receiver(time.Now().Add(90*24*time.Hour))+"/hooks/s3cr3t", nil)
	w.health["a"], w.health["b"] = "silent", "slowed"
	troubles, r := w.examine()
	if troubles != "" {
		t.Error(troubles)
	}
	unknown := func(c Check) bool { return c == Unknown(Callbacks, "", "the owners of 1 callback did not answer") }
	if last := r.Checks[len(r.Checks)-1]; !unknown(last) {
		t.Errorf("%+v", last)
	}
	if !r.Unlooked(false) || r.Unlooked(true) {
		t.Error("a callback was not looked at, and nothing of the operator's")
	}
}
