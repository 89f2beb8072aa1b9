package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/relaytest"
)

// secrets are all that nobody may find, by what they are.
type secrets struct {
	mu  sync.Mutex
	all map[string][]byte
}

func (s *secrets) add(what, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string][]byte{}
	}
	s.all[what] = []byte(value)
}

// names returns the names of the known secrets.
func (s *secrets) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.all))
}

// overhear writes down every token that the vendor hands out.
func (s *secrets) overhear(vendor http.Handler) http.Handler {
	n := 0
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != sandbox.TokenPath {
			vendor.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		vendor.ServeHTTP(answer, r)
		var pair struct {
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
		}
		if json.Unmarshal(answer.Body.Bytes(), &pair) == nil && pair.Access != "" {
			mu.Lock()
			n++
			s.add(fmt.Sprintf("access token %d", n), pair.Access)
			s.add(fmt.Sprintf("refresh token %d", n), pair.Refresh)
			mu.Unlock()
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // a caller that has gone needs no response
	})
}

// find returns which of the secrets are in b, as they are or in hex or base64 at any offset.
func (s *secrets) find(b []byte) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for what, secret := range s.all {
		for form, spelled := range spellings(secret) {
			if bytes.Contains(b, spelled) {
				found = append(found, what+" ("+form+")")
			}
		}
	}
	slices.Sort(found)
	return found
}

// spellings are the ways in which bytes may be written down.
func spellings(secret []byte) map[string][]byte {
	forms := map[string][]byte{
		"as it is": secret,
		"hex":      []byte(hex.EncodeToString(secret)),
		"HEX":      []byte(strings.ToUpper(hex.EncodeToString(secret))),
	}
	// Base64 writes three bytes in four characters: what stands before the secret decides which
	// four. The characters at both ends that depend on its neighbours are left out.
	for offset := range 3 {
		shifted := append(make([]byte, offset), secret...)
		shifted = shifted[:len(shifted)/3*3]
		for name, e := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding,
			"base64url": base64.RawURLEncoding} {
			forms[fmt.Sprintf("%s+%d", name, offset)] = []byte(e.EncodeToString(shifted)[(offset*8+5)/6:])
		}
	}
	return forms
}

func TestSecretsAreFoundInEverySpelling(t *testing.T) {
	t.Parallel()
	var s secrets
	s.add("it", "a-secret-of-some-length")
	for _, hidden := range []string{
		`{"x":"a-secret-of-some-length"}`,
		"…" + hex.EncodeToString([]byte("zz a-secret-of-some-length")),
		base64.StdEncoding.EncodeToString([]byte("a-secret-of-some-length")),
		base64.StdEncoding.EncodeToString([]byte("1a-secret-of-some-length!!")),
		base64.URLEncoding.EncodeToString([]byte("22a-secret-of-some-length!")),
		base64.RawStdEncoding.EncodeToString([]byte(`{"token":"a-secret-of-some-length","x":1}`)),
	} {
		if len(s.find([]byte(hidden))) == 0 {
			t.Errorf("not found in %s", hidden)
		}
	}
	if found := s.find([]byte("a-secret-of-another-length, a-secret-of")); len(found) > 0 {
		t.Errorf("found %v where there is none", found)
	}
}

// TestSecrets lets the relay handle every kind of secret, in good days and bad ones. It looks for
// them wherever somebody could read: in the log at its most verbose level, in the API's responses,
// in the metrics and in the data directory.
func TestSecrets(t *testing.T) {
	t.Parallel()
	var known secrets
	w := newWorld(t, 4, sandbox.Config{Seed: 21, AccessTokenLifetime: 2 * time.Second}, known.overhear)
	known.add("admin token", w.admin)
	known.add("client secret", w.env["RELAY_AUDATEX_CLIENT_SECRET"])
	bearer, password, header := "bearer-"+rand.Text(), "password-"+rand.Text(), "header-"+rand.Text()
	known.add("callback's bearer token", bearer)
	known.add("callback's password", password)
	known.add("callback's header", header)
	ok := w.newReceiver("ok", relaytest.Healthy, map[string]any{"headers": map[string]string{"X-Api-Key": header}, "auth": map[string]string{"type": "bearer", "token": bearer}})
	refusing := w.newReceiver("refusing", relaytest.Always(http.StatusForbidden), map[string]any{
		"headers": map[string]string{"X-Api-Key": header}, "auth": map[string]string{"type": "basic", "username": "relay", "password": password},
	})
	refusing.Echoes = true
	segment, query := "segment-"+rand.Text(), "query-"+rand.Text()
	known.add("token in a callback's path", segment)
	known.add("token in a callback's query", query)
	refusing.Beneath = "/" + segment + "?site=leeds&token=" + query
	ok.Beneath = refusing.Beneath
	w.oauthReceivers(&known)
	w.newDeadReceiver("dead", map[string]any{"headers": map[string]string{"X-Api-Key": header}})
	p := w.start()
	w.connect()
	w.noteFirstTokens(&known)
	w.register()
	for _, r := range w.receivers {
		w.rotateSecret(r)
		known.addSigning("signing secret of "+r.ID, r.Secret)
		known.addSigning("rotated signing secret of "+r.ID, r.Rotated)
	}
	keyID, key := w.apiKey("bms", w.sites[:2])
	known.add("API key", key)
	known.add("API key's secret half", key[strings.LastIndex(key, "_")+1:])

	// Good days: events, refreshes.
	for n := range 40 {
		if _, err := w.sandbox.CreateOrder(vendorSite(w.sites[n%4]), sandbox.OrderOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.AwaitAccepted(t, 40, ok)
	sent := ok.Header()
	if got := sent.Get("X-Api-Key"); got != header || sent.Get("Authorization") != "Bearer "+bearer {
		t.Errorf("the receiver was sent X-Api-Key %q, Authorization %q", got, sent.Get("Authorization"))
	}
	harness.Eventually(t, "tokens are refreshed", func() string {
		if n := w.sandbox.Counters().TokenRefreshes; n < 12 {
			return fmt.Sprintf("%d times", n)
		}
		return ""
	})
	// Bad days: a consent withdrawn, a token endpoint that fails, a wrong token and a wrong key,
	// requests that are refused.
	if err := w.sandbox.RevokeGrant(w.grants[w.sites[3]][0]); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "a consent is asked for", func() string {
		var c harness.Connection
		w.api().Must(t, http.MethodGet, "/v1/connections/"+w.sites[3], nil, &c)
		if c.State != "consent-required" {
			return c.State
		}
		return ""
	})
	if err := w.sandbox.SetFaults(sandbox.Faults{Share500: 0.7, ShareCut: 0.2,
		Operations: []sandbox.Operation{sandbox.OpToken, sandbox.OpPoll, sandbox.OpReadOrder}}); err != nil {
		t.Fatal(err)
	}
	failures := w.sandbox.Counters().Faults["500"] // after five failures the host is only probed, ever more seldom
	harness.Eventually(t, "the vendor fails", func() string {
		if n := w.sandbox.Counters().Faults["500"]; n < failures+3 {
			return fmt.Sprintf("%d times", n-failures)
		}
		return ""
	})
	if err := w.sandbox.SetFaults(); err != nil {
		t.Fatal(err)
	}
	w.misbehave(t, key, header, bearer)

	answers := w.everyAnswer(t, key, keyID)
	answers["metrics"] = fetch(t, w, "http://"+p.At.Metrics+"/metrics")
	for what, body := range answers {
		// the operations on one callback return its whole URL, once
		for _, r := range []*harness.Receiver{ok, refusing} {
			if strings.HasSuffix(what, " /v1/callbacks/"+r.ID) ||
				what == "POST /v1/callbacks/"+r.ID+"/resume" || what == "PATCH "+r.ID {
				body = bytes.Replace(body, []byte(r.Address()+"/hook"+r.Beneath), nil, 1)
			}
		}
		if found := known.find(body); len(found) > 0 {
			t.Errorf("%s tells %v", what, found)
		}
	}
	if code := w.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	log := w.book.Text()
	if !bytes.Contains(log, []byte(`"level":"DEBUG"`)) {
		t.Error("the log is not at its most talkative")
	}
	for line := range bytes.Lines(log) {
		if found := known.find(line); len(found) > 0 {
			t.Errorf("the log tells %v in: %s", found, line)
		}
	}
	w.book.CheckWellFormed(t)
	searchFiles(t, w.dir, &known)
	t.Logf("looked for %d secrets in %d answers, %d bytes of log and the data directory",
		len(known.names()), len(answers), len(log))
}

// oauthReceivers makes two receivers whose callbacks get access tokens: one that refuses them and
// repeats the request, and one whose token URL refuses the relay and repeats its secret.
func (w *world) oauthReceivers(s *secrets) {
	clientSecret, token, query := "oauth-secret-"+rand.Text(), "access-"+rand.Text(), "tenant-"+rand.Text()
	s.add("callback's client secret", clientSecret)
	s.add("callback's access token", token)
	s.add("token in a token URL's query", query)
	auth := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/refusing") {
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(rw, `{"error":"invalid_client","error_description":"%s %s %s"}`, clientSecret, r.URL,
				r.Header.Get("Authorization"))
			return
		}
		_, _ = fmt.Fprintf(rw, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, token)
	}))
	w.t.Cleanup(auth.Close)
	settings := func(path string) map[string]any {
		return map[string]any{"auth": map[string]any{
			"type": "oauth2", "tokenUrl": auth.URL + path + "?tenant=" + query, "clientId": "relay", "clientSecret": clientSecret,
		}}
	}
	refusing := w.newReceiver("oauth", relaytest.Always(http.StatusUnauthorized), settings("/token"))
	refusing.Echoes = true
	w.newReceiver("tokenless", relaytest.Healthy, settings("/refusing"))
}

// addSigning knows a signing secret as it is written, and as the bytes it stands for.
func (s *secrets) addSigning(what, secret string) {
	s.add(what, secret)
	if key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_")); err == nil {
		s.add(what+", decoded", string(key))
	}
}

// noteFirstTokens knows the refresh tokens that the connections were made with.
func (w *world) noteFirstTokens(s *secrets) {
	for site, token := range w.firstTokens {
		s.add("first refresh token of "+site, token)
	}
}

// rotateSecret gives a callback another signing secret. Both sign for a day, so its receiver goes
// on verifying with the first.
func (w *world) rotateSecret(r *harness.Receiver) {
	var rotated struct{ Secret string }
	w.api().Must(w.t, http.MethodPost, "/v1/callbacks/"+r.ID+"/rotate-secret", map[string]any{}, &rotated)
	if rotated.Secret == "" || rotated.Secret == r.Secret {
		w.t.Errorf("callback %s: the secret was not rotated", r.ID)
	}
	r.Rotated = rotated.Secret
}

// misbehave sends requests that are refused, with secrets where they do not belong.
func (w *world) misbehave(t *testing.T, key, header, bearer string) {
	t.Helper()
	for _, c := range []struct {
		as, method, path string
		body             any
	}{
		{"wrong-" + w.admin, http.MethodGet, "/v1/connections", nil},
		{key + "x", http.MethodGet, "/v1/callbacks", nil},
		{key, http.MethodGet, "/v1/connections", nil},
		{w.admin, http.MethodPut, "/v1/connections/bad",
			map[string]any{"level": "planet", "site": "x", "refreshToken": header}},
		{w.admin, http.MethodPut, "/v1/callbacks/bad", map[string]any{"url": "ftp://x",
			"headers": map[string]string{"X-Api-Key": header},
			"auth":    map[string]string{"type": "bearer", "token": bearer}}},
		{w.admin, http.MethodPut, "/v1/callbacks/bad",
			map[string]any{"url": "http://127.0.0.1/", "headers": map[string]string{"Host": header}}},
	} {
		a, err := w.as(c.as).Call(c.method, c.path, c.body)
		if err != nil || a.Status/100 != 4 {
			t.Errorf("%s %s: %d %v, want a refusal", c.method, c.path, a.Status, err)
		}
		for _, secret := range []string{w.admin, key, header, bearer} {
			if bytes.Contains(a.Body, []byte(secret)) {
				t.Errorf("%s %s: the refusal tells a secret: %s", c.method, c.path, a.Body)
			}
		}
	}
}

// everyAnswer reads all that can be read with the admin token and with a key.
func (w *world) everyAnswer(t *testing.T, key, keyID string) map[string][]byte {
	t.Helper()
	paths := []string{"/v1/connections", "/v1/callbacks", "/v1/clients", "/v1/clients/bms", "/v1/clients/bms/keys",
		"/v1/events?limit=1000", "/v1/events?limit=1000&types=audatex.relay.*", "/v1/orders", "/v1/unresolved",
		"/livez", "/readyz", "/openapi.yaml", "/openapi.json", "/docs"}
	for _, site := range w.sites {
		paths = append(paths, "/v1/connections/"+site)
	}
	for _, r := range w.receivers {
		paths = append(paths, "/v1/callbacks/"+r.ID, "/v1/callbacks/"+r.ID+"/deliveries")
		for id := range r.Bodies() {
			paths = append(paths, "/v1/callbacks/"+r.ID+"/deliveries/"+id)
			break
		}
	}
	answers := map[string][]byte{}
	for _, path := range paths {
		a, err := w.api().Call(http.MethodGet, path, nil)
		if err != nil || a.Status != http.StatusOK {
			t.Errorf("GET %s: %d %v", path, a.Status, err)
		}
		answers["GET "+path] = a.Body
		if a, err = w.as(key).Call(http.MethodGet, path, nil); err != nil {
			t.Errorf("GET %s with a key: %v", path, err)
		}
		answers["GET "+path+" with key "+keyID] = a.Body
	}
	for _, r := range w.receivers {
		for _, operation := range []string{"resume", "test"} {
			path := "/v1/callbacks/" + r.ID + "/" + operation
			a, err := w.api().Call(http.MethodPost, path, map[string]any{})
			if operation == "resume" {
				a, err = w.api().Call(http.MethodPost, path, nil)
			}
			if err != nil || a.Status != http.StatusOK {
				t.Errorf("POST %s: %d %v %s", path, a.Status, err, a.Body)
			}
			answers["POST "+path] = a.Body
		}
		a, err := w.api().Call(http.MethodPatch, "/v1/callbacks/"+r.ID, map[string]any{"description": "seen"})
		if err != nil || a.Status != http.StatusOK {
			t.Errorf("PATCH %s: %d %v %s", r.ID, a.Status, err, a.Body)
		}
		answers["PATCH "+r.ID] = a.Body
	}
	return answers
}

func fetch(t *testing.T, w *world, url string) []byte {
	t.Helper()
	res, err := w.client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// searchFiles looks into every file of the data directory but the one that holds the key to all
// others.
func searchFiles(t *testing.T, dir string, known *secrets) {
	t.Helper()
	files, size := 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Name() == store.KeyFile {
			info, err := d.Info()
			if err == nil && info.Mode().Perm() != 0o600 {
				err = errors.New("the key file can be read by others: " + info.Mode().String())
			}
			return err
		}
		b, err := os.ReadFile(path)
		files, size = files+1, size+len(b)
		if found := known.find(b); len(found) > 0 {
			t.Errorf("%s holds %v", strings.TrimPrefix(path, dir), found)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if files < 10 || size < 100_000 {
		t.Errorf("only %d files with %d bytes were there to look into", files, size)
	}
}
