package sandbox_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/audatex-relay/relay/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

const api = sandbox.APIPath + "/v1/bmsapi"

// vendor is a sandbox on a real listener and someone who talks to it.
type vendor struct {
	*sandbox.Sandbox
	t         testing.TB
	url       string
	client    *http.Client
	transport *http.Transport
}

func start(t testing.TB, cfg sandbox.Config) *vendor {
	t.Helper()
	s := sandbox.New(cfg)
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &vendor{Sandbox: s, t: t, url: server.URL, client: client, transport: transport}
}

type reply struct {
	status int
	header http.Header
	body   string
}

// try sends a request and returns what came, or what went wrong on the wire.
func (v *vendor) try(method, path, token string, header http.Header, body string) (reply, error) {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.url+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatalf("making a request: %v", err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := v.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(data)}, err
}

func (v *vendor) do(method, path, token string) reply {
	v.t.Helper()
	got, err := v.try(method, path, token, nil, "")
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

func (r reply) decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("decoding %q: %v", r.body, err)
	}
}

type tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	Scope        string `json:"scope"`
	Error        string `json:"error"`
}

// ask sends a form to the token endpoint, with the client's credentials in it.
func (v *vendor) ask(form url.Values) (int, tokens) {
	v.t.Helper()
	form.Set("client_id", "sandbox-client")
	form.Set("client_secret", "sandbox-secret")
	got, err := v.try("POST", sandbox.TokenPath, "", formHeader(), form.Encode())
	if err != nil {
		v.t.Fatalf("asking for tokens: %v", err)
	}
	var out tokens
	got.decode(v.t, &out)
	return got.status, out
}

func formHeader() http.Header {
	return http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
}

func (v *vendor) refresh(token string) (int, tokens) {
	v.t.Helper()
	return v.ask(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// login gives a consent and returns its grant and an access token.
func (v *vendor) login(c sandbox.Consent) (sandbox.Grant, string) {
	v.t.Helper()
	g, err := v.Grant(c)
	if err != nil {
		v.t.Fatal(err)
	}
	status, pair := v.refresh(g.RefreshToken)
	if status != http.StatusOK || pair.AccessToken == "" {
		v.t.Fatalf("first refresh: %d %s", status, pair.Error)
	}
	return g, pair.AccessToken
}

func (v *vendor) site(id string) string {
	v.t.Helper()
	_, token := v.login(sandbox.Consent{Sites: []string{id}})
	return token
}

// subscribe subscribes to all orders and returns the subscription's id.
func (v *vendor) subscribe(level sandbox.Level, token string) string {
	v.t.Helper()
	got := v.do("POST", api+"/"+string(level)+"/subscriptions?topicCode=PARTS.ORDER", token)
	var sub struct{ SubscriptionId string }
	got.decode(v.t, &sub)
	if got.status != http.StatusOK || !uuid.MatchString(sub.SubscriptionId) {
		v.t.Fatalf("subscribing: %d %s", got.status, got.body)
	}
	return sub.SubscriptionId
}

type message struct {
	NotificationId, SubscriptionId, Topic, SiteId, CompanyCode, CreatedAt string

	Resources    []struct{ ResourceType, ResourceId string }
	ResourceUris []struct{ Type, Value string }
}

func (v *vendor) poll(level sandbox.Level, token, sub string) []message {
	v.t.Helper()
	got := v.do("GET", api+"/"+string(level)+"/subscriptions/"+sub+"/notifications", token)
	if got.status != http.StatusOK {
		v.t.Fatalf("polling: %d %s", got.status, got.body)
	}
	var list []message
	got.decode(v.t, &list)
	return list
}

// orderID reads a message as a client should: only the uuid.
func (m message) orderID(t testing.TB) string {
	t.Helper()
	if len(m.ResourceUris) == 1 {
		u, err := url.Parse(m.ResourceUris[0].Value)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ToLower(u.Path[strings.LastIndex(u.Path, "/")+1:])
	}
	for _, r := range m.Resources {
		if len(m.Resources) == 1 || strings.Contains(strings.ToLower(r.ResourceType), "order") {
			return strings.ToLower(r.ResourceId)
		}
	}
	t.Fatalf("no order in %+v", m)
	return ""
}

func (v *vendor) create(site string, opts sandbox.OrderOptions) sandbox.Order {
	v.t.Helper()
	o, err := v.CreateOrder(site, opts)
	if err != nil {
		v.t.Fatal(err)
	}
	return o
}

// eventually polls a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not come about", what)
		}
		<-tick.C
	}
}
