package httpapi

import (
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestConsentLinks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := f.admin()
	for _, id := range []string{"con-a", "con-b"} {
		op.put("/v1/connections/"+id, map[string]any{"level": "site", "site": "alpha"}).want(201)
	}
	var made ConsentLinkCreated
	op.post("/v1/connections/con-a/consent-links", nil).want(201).into(&made)
	token, ok := strings.CutPrefix(made.Url, publicURL+"/consent/")
	if !ok || len(token) != 43 || made.Connection != "con-a" || made.ExpiresAt.IsZero() {
		t.Errorf("made: %+v", made)
	}
	op.post("/v1/connections/con-c/consent-links", nil).want(404)
	op.post("/v1/connections/con-a/consent-links",
		map[string]any{"returnUrl": "https://evil.example/"}).want(422).problem("invalid-body", "/returnUrl")
	op.post("/v1/connections/con-a/consent-links", map[string]any{"forced": true}).want(422).problem("invalid-body",
		"/forced")
	var forced ConsentLinkCreated
	op.post("/v1/connections/con-a/consent-links",
		map[string]any{"force": true, "returnUrl": "https://bms.example/x"}).want(201).into(&forced)

	var list ConsentLinkList
	answer := op.get("/v1/connections/con-a/consent-links").want(200)
	answer.into(&list)
	if len(list.Items) != 2 || strings.Contains(string(answer.body), token) {
		t.Errorf("listed: %s", answer.body)
	}
	for _, l := range list.Items {
		if l.State != ConsentLinkStateOpen || l.CreatedBy != "admin" || l.Force != (l.Id == forced.Id) ||
			(l.ReturnUrl != "") != l.Force {
			t.Errorf("listed: %+v", l)
		}
	}
	op.delete("/v1/connections/con-b/consent-links/" + made.Id).want(404)
	op.delete("/v1/connections/con-a/consent-links/" + made.Id).want(204)
	op.delete("/v1/connections/con-a/consent-links/" + made.Id).want(204)
	op.delete("/v1/connections/con-a/consent-links/" + strings.Repeat("0", 32)).want(404)
	list = ConsentLinkList{}
	op.get("/v1/consent-links?state=withdrawn").want(200).into(&list)
	if len(list.Items) != 1 || list.Items[0].Id != made.Id || list.Items[0].WithdrawnAt.IsZero() {
		t.Errorf("withdrawn: %+v", list)
	}

	// Many in one call: all or none.
	op.post("/v1/consent-links",
		map[string]any{"connections": []string{"con-a", "con-c"}}).want(422).problem("invalid-body", "/connections/1")
	var many ConsentLinksCreated
	op.post("/v1/consent-links", map[string]any{"connections": []string{"con-b", "con-a"}}).want(201).into(&many)
	if len(many.Items) != 2 || many.Items[0].Connection != "con-b" || many.Items[1].Connection != "con-a" {
		t.Errorf("made: %+v", many)
	}
	list = ConsentLinkList{}
	op.get("/v1/consent-links?state=open&limit=2").want(200).into(&list)
	if len(list.Items) != 2 || list.Next == "" {
		t.Errorf("a page: %+v", list)
	}
	rest := ConsentLinkList{}
	op.get("/v1/consent-links?state=open&limit=2&after=" + list.Next).want(200).into(&rest)
	if len(rest.Items) != 1 || rest.Next != "" {
		t.Errorf("the rest: %+v", rest)
	}

	// Links of a connection that was removed can be used no more.
	op.delete("/v1/connections/con-b").want(200)
	list = ConsentLinkList{}
	op.get("/v1/consent-links?state=open,withdrawn").want(200).into(&list)
	for _, l := range list.Items {
		if l.Connection == "con-b" && l.State != ConsentLinkStateWithdrawn {
			t.Errorf("of a removed connection: %+v", l)
		}
	}
	op.get("/v1/connections/con-b/consent-links").want(404)

	// Keys of clients do not reach them.
	writer := f.client("acme", relay.RoleWrite, "alpha")
	writer.get("/v1/consent-links").want(404)
	writer.post("/v1/connections/con-a/consent-links", nil).want(404)
	writer.post("/v1/consent-links", map[string]any{"connections": []string{"con-a"}}).want(404)
	writer.delete("/v1/connections/con-a/consent-links/" + forced.Id).want(404)
}

func TestNoLinksWithoutAPublicAddress(t *testing.T) {
	t.Parallel()
	for public, want := range map[string]string{"": "RELAY_PUBLIC_URL is not set", "http://relay.example": "https://"} {
		f := newFixture(t, func(c *Config) { c.Consents = newConsents(t, c.Store, public, c.Log) })
		f.admin().put("/v1/connections/con-a", map[string]any{"level": "site", "site": "alpha"}).want(201)
		got := f.admin().post("/v1/connections/con-a/consent-links", nil).want(409)
		if got.problem("consent-links-off"); !strings.Contains(string(got.body), want) {
			t.Errorf("%q: %s", public, got.body)
		}
	}
}
