package httpapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/signature"
)

// body is a JSON object with v for the values; what is asked of them is not how they are escaped.
func body(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatWasPastedAroundASecretIsTakenAwayWithAWarning(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	admin := f.admin()
	for _, pasted := range []string{"refresh-1\r\n", " refresh-1", "\ufeffrefresh-1",
		"\u00ef\u00bb\u00bfrefresh-1\u00a0",
		"\trefresh-1\u200b\n"} {
		for _, write := range []func(string, any, ...string) answer{admin.put, admin.patch} {
			admin.put("/v1/connections/leeds", `{"level":"site","site":"leeds","refreshToken":"before"}`)
			a := write("/v1/connections/leeds",
				body(t, map[string]any{"level": "site", "site": "leeds", "refreshToken": pasted}))
			rec, _, err := f.store.Tokens.Token(t.Context(), "leeds")
			if a.status != http.StatusOK || err != nil || rec.RefreshToken.Reveal() != "refresh-1" {
				t.Errorf("%q: %d, stored %q (%v)", pasted, a.status, rec.RefreshToken.Reveal(), err)
			}
		}
	}
	secret := signature.NewSecret().Reveal()
	settings := map[string]any{
		"url": " https://bms.example/hook\n", "secret": "\ufeff" + secret + "\r\n",
		"headers": map[string]string{"X-Key": " a b\t\n"},
		"auth":    map[string]string{"type": "basic", "username": "us\n", "password": " p w \r\n"},
	}
	for _, write := range []func() answer{
		func() answer { return admin.put("/v1/callbacks/cb", body(t, settings)) },
		func() answer { return admin.put("/v1/callbacks/cb", body(t, settings)) },
		func() answer {
			patch := maps.Clone(settings)
			delete(patch, "secret")
			return admin.patch("/v1/callbacks/cb", body(t, patch))
		},
	} {
		a := write()
		cb, _, err := f.store.Callbacks.Get(t.Context(), "cb")
		if a.status >= 300 || err != nil {
			t.Fatalf("%d %s, %v", a.status, a.body, err)
		}
		s := cb.Secrets
		if s.URL != "https://bms.example/hook" || s.Signing[0].Secret != secret || s.Headers["X-Key"] != "a b" ||
			s.Auth.Username != "us" || s.Auth.Password != " p w " {
			t.Errorf("stored %q %v %q %q", s.URL, s.Signing[0].Secret == secret, s.Headers["X-Key"], s.Auth.Password)
		}
	}
	next := signature.NewSecret().Reveal()
	if a := admin.post("/v1/callbacks/cb/rotate-secret",
		body(t, map[string]string{"secret": next + "\n"})); a.status != http.StatusOK ||
		!strings.Contains(string(a.body), next+`"`) {
		t.Errorf("rotated: %d %s", a.status, a.body)
	}
	log := f.log.String()
	for _, want := range []string{"/refreshToken", "/secret", "/auth/password", "/headers/X-Key", "/url",
		`"connection":"leeds"`, `"callback":"cb"`} {
		if !strings.Contains(log, want) {
			t.Errorf("no warning names %s: %s", want, log)
		}
	}
	for _, hidden := range []string{"refresh-1", secret, "p w"} {
		if strings.Contains(log, hidden) {
			t.Errorf("the log holds %q", hidden)
		}
	}
}

func TestQuotesAndControlCharactersAroundASecretAreRefusedByItsField(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	admin := f.admin()
	for _, bad := range []string{`"hush"`, "'hush'", "\u201chush\u201d", "hu\x00sh", "hu\nsh",
		"\u00ff\u00feh\x00u\x00s\x00h\x00", " \r\n"} {
		for pointer, settings := range map[string]map[string]any{
			"/refreshToken":  {"level": "site", "site": "leeds", "refreshToken": bad},
			"/url":           {"url": bad},
			"/secret":        {"url": "https://bms.example/", "secret": bad},
			"/headers/X-Key": {"url": "https://bms.example/", "headers": map[string]string{"X-Key": bad}},
			"/auth/token": {"url": "https://bms.example/",
				"auth": map[string]string{"type": "bearer", "token": bad}},
			"/auth/username": {"url": "https://bms.example/",
				"auth": map[string]string{"type": "basic", "username": bad, "password": "p"}},
			"/auth/password": {"url": "https://bms.example/",
				"auth": map[string]string{"type": "basic", "username": "u", "password": bad}},
		} {
			if pointer == "/auth/password" && bad == " \r\n" { // blanks may be meant there
				continue
			}
			path := "/v1/callbacks/cb"
			if pointer == "/refreshToken" {
				path = "/v1/connections/leeds"
			}
			a := admin.put(path, body(t, settings))
			var p Problem
			a.into(&p)
			if a.status != http.StatusUnprocessableEntity ||
				!slices.ContainsFunc(p.Errors, func(e FieldError) bool { return e.Pointer == pointer }) ||
				len(p.Errors) != 1 {
				t.Errorf("%s %q: %d %s", pointer, bad, a.status, a.body)
			}
			if strings.Contains(string(a.body), "hush") {
				t.Errorf("%s: the answer repeats the value: %s", pointer, a.body)
			}
		}
	}
}
