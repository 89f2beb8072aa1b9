package consent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/sandbox/sandboxtest"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

const returnOrigin = "https://bms.example"

// world is one store, one vendor and one public address behind which replicas take turns.
type world struct {
	t *testing.T
	*common
}

type common struct {
	conn   *nats.Conn
	seal   *store.Sealer
	box    *sandbox.Sandbox
	vendor string
	public string
	log    *buffer
	// instead responds in place of the vendor. It returns false to leave a request to the sandbox.
	instead atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]

	mu       sync.Mutex
	replicas []*replica
	turn     int
}

// replica is one process of the relay as far as consents go.
type replica struct {
	*Service
	store  *store.Store
	gate   atomic.Pointer[store.Gate]
	budget *audatex.Budget
	stop   func()
}

// option changes a replica's configuration.
type option func(*Config)

func newWorld(t *testing.T, options ...option) *world {
	t.Helper()
	raw, err := store.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, &common{box: sandbox.New(sandbox.Config{}), log: &buffer{}}}
	if w.seal, err = store.NewSealer(raw); err != nil {
		t.Fatal(err)
	}
	w.conn = natstest.StartIn(t, t.TempDir())
	vendor := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if instead := w.instead.Load(); instead == nil || !(*instead)(rw, r) {
			w.box.Handler().ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(vendor.Close)
	w.vendor = vendor.URL
	public := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.next().ServeHTTP(rw, r)
	}))
	t.Cleanup(public.Close)
	w.public = public.URL
	w.start(options...)
	return w
}

// in is the world for a subtest.
func (w *world) in(t *testing.T) *world { return &world{t, w.common} }

// next returns the replica whose turn it is.
func (w *world) next() *replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	return w.replicas[w.turn%len(w.replicas)]
}

// start adds a replica.
func (w *world) start(options ...option) *replica {
	t := w.t
	t.Helper()
	log := slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := &replica{budget: audatex.NewBudget(0)}
	gate := func(at func(store.Gate) func(store.Write) error) func(store.Write) error {
		return func(write store.Write) error {
			if g := r.gate.Load(); g != nil && at(*g) != nil {
				return at(*g)(write)
			}
			return nil
		}
	}
	var err error
	r.store, err = store.Open(t.Context(), store.Config{
		Conn: w.conn, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 720 * time.Hour},
		Sealer: w.seal,
		Log:    log,
		Gate: store.Gate{
			Before: gate(func(g store.Gate) func(store.Write) error { return g.Before }),
			After:  gate(func(g store.Gate) func(store.Write) error { return g.After }),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := audatex.New(audatex.Config{BaseURL: w.vendor + sandbox.APIPath, Budget: r.budget, Logger: log,
		Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	scopes := []string{sandbox.ScopeBasic, sandbox.ScopePartsOrders, sandbox.ScopeCompany}
	c := Config{
		Store: r.store, Client: client, Budget: r.budget, PublicURL: w.public,
		AuthURL: w.vendor + sandbox.AuthorizePath, ClientID: "sandbox-client", Scopes: scopes, PKCE: true,
		ReturnOrigins: []string{returnOrigin}, CallBound: 5 * time.Second, Log: log,
	}
	for _, o := range options {
		o(&c)
	}
	c.Tokens, err = audatex.NewTokens(audatex.TokensConfig{
		AuthURL: c.AuthURL, TokenURL: w.vendor + sandbox.TokenPath, ClientID: "sandbox-client",
		ClientSecret: relay.NewSecret("sandbox-secret"),
		Scopes:       c.Scopes, Store: r.store.Tokens, Budget: r.budget, Logger: log, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Service, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	running.Go(func() { _ = r.store.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		closing, done := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer done()
		_ = r.Close(closing) // a killed process does not wait
		cancel()
		running.Wait()
		_ = c.Tokens.Close(closing)
		client.Close()
	})
	t.Cleanup(r.stop)
	select {
	case <-r.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the links are not read")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replicas = append(w.replicas, r)
	return r
}

// answers makes the vendor respond with a status to requests whose path has this suffix.
func (w *world) answers(path string, status int) {
	hook := func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, path) {
			return false
		}
		rw.WriteHeader(status)
		return true
	}
	w.instead.Store(&hook)
}

// any returns one of the replicas.
func (w *world) any() *replica { return w.next() }

// connection makes a connection for the vendor's sites.
func (w *world) connection(id string, sites ...string) relay.Connection {
	w.t.Helper()
	c := relay.Connection{ID: id, Level: relay.LevelSite, Site: "leeds", Generation: relay.NewID(),
		CreatedAt: time.Now().UTC()}
	for _, site := range sites {
		c.Site = ""
		if c.Sites == nil {
			c.Sites = map[string]string{}
		}
		c.Sites[site] = "site-" + site
	}
	if _, err := w.any().store.Connections.Create(w.t.Context(), id, c); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// link makes a link.
func (w *world) link(n NewLink) Made {
	w.t.Helper()
	n.CreatedBy, n.Token = "test", make([]byte, TokenBytes)
	_, _ = rand.Read(n.Token)
	made, err := w.any().Make(w.t.Context(), []NewLink{n})
	if err != nil {
		w.t.Fatal(err)
	}
	return made[0]
}

// stored returns the link as it is stored.
func (w *world) stored(id string) relay.ConsentLink {
	w.t.Helper()
	l, _, err := w.any().load(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// edit changes a link as it is stored.
func (w *world) edit(id string, change func(l *relay.ConsentLink)) {
	w.t.Helper()
	if _, err := w.any().change(w.t.Context(), id, func(l *relay.ConsentLink) bool {
		l.Attempts = slices.Clone(l.Attempts)
		change(l)
		return true
	}); err != nil {
		w.t.Fatal(err)
	}
}

// token returns a connection's tokens, empty if there are none.
func (w *world) token(connection string) relay.TokenRecord {
	w.t.Helper()
	rec, _, err := w.any().store.Tokens.Token(w.t.Context(), connection)
	if err != nil && !errors.Is(err, relay.ErrNoToken) {
		w.t.Fatal(err)
	}
	return rec
}

// shown is what a browser shows.
type shown struct {
	status   int
	header   http.Header
	body     string
	location string
	at       time.Time
}

var titleOf = regexp.MustCompile(`<h1>(.*)</h1>`)

func (s shown) title() string {
	if m := titleOf.FindStringSubmatch(s.body); m != nil {
		return m[1]
	}
	return ""
}

var mainLinkOf = regexp.MustCompile(`<a class="main" href="([^"]*)"`)

// mainLink is where the page's link leads that looks like a button.
func mainLink(s shown) string {
	if m := mainLinkOf.FindStringSubmatch(s.body); m != nil {
		return html.UnescapeString(m[1])
	}
	return ""
}

func deny(v *sandboxtest.Visitor) { v.Deny = true }

func scopes(ticked ...string) func(*sandboxtest.Visitor) {
	return func(v *sandboxtest.Visitor) { v.Scopes = ticked }
}

// user is f, or a user who does what is asked.
func user(f func(*sandboxtest.Visitor)) func(*sandboxtest.Visitor) {
	if f == nil {
		return func(*sandboxtest.Visitor) {}
	}
	return f
}

// id makes a connection's id of a test's name.
func id(name string) string {
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(name, "-"), "-")
}

// stateOf returns the state in an address.
func stateOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Query().Get("state")
}

// browser is one with cookies of its own that follows no redirects by itself.
type browser struct {
	w    *world
	http *http.Client
}

func (w *world) browser() *browser {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	transport := &http.Transport{}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &browser{w, &http.Client{Jar: jar, Transport: transport, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *browser) send(method, address string, form url.Values, headers ...string) shown {
	b.w.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = b.w.public + address
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.w.t.Context(), method, address, body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.http.Do(r)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return shown{resp.StatusCode, resp.Header, string(got), resp.Header.Get("Location"), time.Now()}
}

func (b *browser) get(address string) shown {
	b.w.t.Helper()
	return b.send(http.MethodGet, address, nil)
}

// press presses the button of the page at an address, and returns where the browser is sent.
func (b *browser) press(address string) shown {
	b.w.t.Helper()
	return b.send(http.MethodPost, address, url.Values{"begin": {"1"}}, "Sec-Fetch-Site",
		"same-origin", "Origin", "null")
}

// toVendor presses the button and has a user consent at the vendor's; it returns the address on the
// way back.
func (b *browser) toVendor(address, site string, change ...func(*sandboxtest.Visitor)) string {
	b.w.t.Helper()
	at := b.press(address)
	if at.status != http.StatusSeeOther {
		b.w.t.Fatalf("the button leads to %d %s", at.status, at.title())
	}
	v := sandboxtest.Visitor{Company: "C" + site, User: "bms." + site, Password: "secret", Transport: b.http.Transport}
	for _, f := range change {
		f(&v)
	}
	back, err := v.Consent(b.w.t.Context(), at.location)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return back.String()
}

// consent goes all the way to the result.
func (b *browser) consent(address, site string, change ...func(*sandboxtest.Visitor)) shown {
	b.w.t.Helper()
	return b.finish(b.toVendor(address, site, change...))
}

// finish loads the way back and the result.
func (b *browser) finish(back string) shown {
	b.w.t.Helper()
	at := b.get(back)
	if at.status != http.StatusSeeOther {
		return at
	}
	return b.get(at.location)
}

// account lets a user of a site sign in at the vendor's.
func (w *world) account(site string) {
	w.t.Helper()
	if err := w.box.AddAccount(sandbox.Account{Consent: sandbox.Consent{Sites: []string{site}},
		Password: "secret"}); err != nil {
		w.t.Fatal(err)
	}
}

// buffer is one that many goroutines may write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
