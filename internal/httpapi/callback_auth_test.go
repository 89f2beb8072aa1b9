package httpapi

import (
	"maps"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestCallbackAuth(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	oauth := map[string]any{
		"type": "oauth2", "tokenUrl": "https://auth.example/token?tenant=t-0123456789", "clientId": "relay",
		"clientSecret": " client-secret-0123456789\n", "scope": "orders.write orders.read",
		"audience":   "https://bms.example",
		"clientAuth": "form",
	}
	with := func(changes map[string]any) map[string]any {
		auth := maps.Clone(oauth)
		maps.Copy(auth, changes)
		maps.DeleteFunc(auth, func(_ string, v any) bool { return v == nil })
		return map[string]any{"url": "https://bms.example/hook", "auth": auth}
	}
	want := relay.Auth{
		Type: relay.AuthOAuth2, TokenURL: "https://auth.example/token?tenant=t-0123456789", ClientID: "relay",
		ClientSecret: "client-secret-0123456789", Scope: "orders.write orders.read", Audience: "https://bms.example",
		InForm: true,
	}
	stored := func() relay.Auth {
		t.Helper()
		cb, _, err := f.store.Callbacks.Get(t.Context(), "cb")
		if err != nil || cb.Secrets.Auth == nil {
			t.Fatalf("%v, %v", cb, err)
		}
		return *cb.Secrets.Auth
	}

	var view Callback
	a.put("/v1/callbacks/cb", with(nil)).want(201).into(&view)
	if view.AuthType != AuthSchemeOauth2 || stored() != want {
		t.Errorf("stored %+v", stored())
	}
	// A patch changes a part, and the rest stays.
	a.patch("/v1/callbacks/cb",
		map[string]any{"auth": map[string]any{"clientSecret": "another-secret", "clientAuth": nil}}).want(200)
	want.ClientSecret, want.InForm = "another-secret", false
	if stored() != want {
		t.Errorf("patched to %+v", stored())
	}

	for _, c := range []struct {
		at      string
		changes map[string]any
	}{
		{"/auth/tokenUrl", map[string]any{"tokenUrl": nil}},
		{"/auth/clientId", map[string]any{"clientId": nil}},
		{"/auth/clientSecret", map[string]any{"clientSecret": nil}},
		{"/auth/token", map[string]any{"token": "bearer-token"}},
		{"/auth/username", map[string]any{"username": "relay"}},
		{"/auth/tokenUrl", map[string]any{"tokenUrl": "http://93.184.215.14/token"}},
		{"/auth/tokenUrl", map[string]any{"tokenUrl": "https://10.0.0.1/token"}},
		{"/auth/tokenUrl", map[string]any{"tokenUrl": "https://user:password@auth.example/token"}},
		{"/auth/tokenUrl", map[string]any{"tokenUrl": "https://auth.example/[redacted]"}},
		{"/auth/scope", map[string]any{"scope": "two  blanks"}},
		{"/auth/clientAuth", map[string]any{"clientAuth": "jwt"}},
	} {
		a.put("/v1/callbacks/cb", with(c.changes)).want(422).problem("invalid-body", c.at)
	}
}
