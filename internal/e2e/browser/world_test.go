package browser

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
)

const (
	adminToken   = "an-admin-token-for-browsers"
	clientID     = "browser-client"
	clientSecret = "a-client-secret-for-browsers"
	replicas     = 3
)

// world is three relays on one NATS, behind a proxy that sends each request to the next of them, and the vendor's
// double.
type world struct {
	t       *testing.T
	public  string // the proxy
	sandbox string
	api     harness.Caller
	control harness.Caller
	chrome  context.Context // the browser's, in which every test has a profile of its own
	sites   atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, sandbox: startSandbox(t), chrome: startChromium(t)}
	client := harness.NewClient()
	t.Cleanup(client.CloseIdleConnections)
	var relays [replicas]atomic.Pointer[url.URL]
	var turn atomic.Uint64
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(relays[turn.Add(1)%replicas].Load())
		r.SetXForwarded()
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(proxy.Close)
	w.public = proxy.URL
	bus := natstest.StartLimited(t, 8<<20)
	keys, err := newKeys(t)
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "RELAY_HTTP_ADDR=127.0.0.1:0", "RELAY_METRICS_ADDR=127.0.0.1:0",
		"RELAY_ADMIN_TOKEN=" + adminToken,
		"RELAY_PUBLIC_URL=" + w.public, "RELAY_TRUSTED_PROXIES=127.0.0.1/32", "RELAY_NATS_URL=" + bus.URL(),
		"RELAY_STREAM_REPLICAS=1",
		"RELAY_ENCRYPTION_KEYS=" + keys, "RELAY_AUDATEX_BASE_URL=" + w.sandbox + "/AudaAPI.BMSAPI",
		"RELAY_AUDATEX_AUTH_URL=" + w.sandbox + "/AudaAPI.Portal/OAuth20",
		"RELAY_AUDATEX_TOKEN_URL=" + w.sandbox + "/AudaAPI.Portal/OAuth20/token",
		"RELAY_AUDATEX_CLIENT_ID=" + clientID, "RELAY_AUDATEX_CLIENT_SECRET=" + clientSecret,
		"RELAY_AUDATEX_RATE=60000", "RELAY_POLL_INTERVAL=1s",
		"RELAY_AUDATEX_SCOPES=BMS.Basic,BMS.PartsOrders,ReferenceData.Company", "RELAY_CONSENT_RETURN_ORIGINS=https://bms.example",
	}
	for i := range relays {
		book := &harness.Logbook{}
		p := harness.StartProcess(t, relayProgram(t), []string{"serve"}, env, book)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the end of relay %d's log:\n%s", i, book.Tail(20))
			}
			book.CheckWellFormed(t)
			for _, secret := range []string{adminToken, clientSecret, password} {
				if strings.Contains(string(book.Text()), secret) {
					t.Errorf("a secret is in the log of relay %d", i)
				}
			}
		})
		p.AwaitServing(t, fmt.Sprint("relay ", i))
		relays[i].Store(&url.URL{Scheme: "http", Host: p.At.API})
	}
	w.api = harness.Caller{Base: w.public, Token: adminToken, Client: client}
	w.control = harness.Caller{Base: w.sandbox + "/_sandbox", Client: client}
	return w
}

var listening = regexp.MustCompile(`its control API is (http://[^/]+)/`)

func startSandbox(t *testing.T) string {
	t.Helper()
	book := &harness.Logbook{}
	p := harness.StartProcess(t, relayProgram(t), []string{
		"sandbox", "--addr=127.0.0.1:0", "--client-id=" + clientID, "--secret=" + clientSecret,
	}, []string{"PATH=" + os.Getenv("PATH")}, book)
	var base string
	harness.Eventually(t, "the sandbox listens", func() string {
		select {
		case <-p.Exited:
			t.Fatalf("the sandbox ended: %v\n%s", p.Err, book.Text())
		default:
		}
		if found := listening.FindSubmatch(book.Text()); found != nil {
			base = string(found[1])
			return ""
		}
		return "no line says so"
	})
	return base
}

func newKeys(t *testing.T) (string, error) {
	t.Helper()
	out, err := command(t, relayProgram(t), "keys")
	return strings.TrimSpace(string(out)), err
}

const password = "the-password-of-a-user"

// site is one of the vendor's, with a user who can consent and a connection that waits for it.
type site struct {
	number, company, user, connection string
	link, linkID                      string
}

// newSite makes a site, its user, its connection and a link.
func (w *world) newSite(t *testing.T) site {
	t.Helper()
	n := w.sites.Add(1)
	s := site{number: fmt.Sprint(5000 + n), company: fmt.Sprint("C", 5000+n), user: fmt.Sprint("user.", n),
		connection: fmt.Sprint("site-", n)}
	w.control.Must(t, http.MethodPost, "/accounts", map[string]any{"companyCode": s.company, "user": s.user,
		"password": password, "sites": []string{s.number}}, nil)
	w.api.Must(t, http.MethodPut, "/v1/connections/"+s.connection,
		map[string]any{"level": "site", "sites": map[string]string{s.number: s.connection}}, nil)
	return w.newLink(t, s)
}

// newLink makes another link for a site.
func (w *world) newLink(t *testing.T, s site) site {
	t.Helper()
	var made struct{ ID, URL string }
	w.api.Must(t, http.MethodPost, "/v1/connections/"+s.connection+"/consent-links",
		map[string]any{"returnUrl": "https://bms.example/done?from=relay"}, &made)
	s.link, s.linkID = made.URL, made.ID
	if !strings.HasPrefix(s.link, w.public+"/consent/") {
		t.Fatalf("the link is %s", s.link)
	}
	return s
}

// state returns the state of a site's link.
func (w *world) state(t *testing.T, s site) string {
	t.Helper()
	links, err := harness.Items[struct {
		ID, State string
		Begun     int
	}](w.api, "/v1/connections/"+s.connection+"/consent-links")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.ID == s.linkID {
			return fmt.Sprint(l.State, " begun ", l.Begun)
		}
	}
	t.Fatalf("there is no link %s", s.linkID)
	return ""
}

// connected waits until the connection polls with the tokens of its consent.
func (w *world) connected(t *testing.T, s site) {
	t.Helper()
	harness.Eventually(t, s.connection+" is connected", func() string {
		var c harness.Connection
		w.api.Must(t, http.MethodGet, "/v1/connections/"+s.connection, nil, &c)
		if c.State == "active" {
			return ""
		}
		return "it is " + c.State
	})
}
