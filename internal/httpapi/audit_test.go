package httpapi

import (
	"cmp"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// audited returns what a session finds in the log of changes, newest first.
func (s session) audited(query string) (entries []AuditEntry) {
	s.f.t.Helper()
	for next := ""; ; {
		var page AuditList
		s.get("/v1/audit?limit=3" + query + next).want(200).into(&page)
		entries = append(entries, page.Items...)
		if page.Next == "" {
			return entries
		}
		next = "&after=" + page.Next
	}
}

// brief writes entries as a test compares them.
func brief(entries []AuditEntry) string {
	var lines []string
	for _, e := range entries {
		line := fmt.Sprint(e.Admin, e.Client, " ", e.Operation, " ", e.Path)
		if e.ForClient != "" {
			line += " for " + e.ForClient
		}
		line += fmt.Sprint(" ", e.Outcome.Status)
		for _, more := range []string{e.Outcome.Problem, e.Outcome.Made} {
			if more != "" {
				line += " " + more
			}
		}
		if e.Outcome.Replayed {
			line += " replayed"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// Every request that would change something is in the log with who it was and how it ended, and
// nothing of its body.
func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	aManage := f.key("client-a", relay.RoleManage)
	b := f.client("client-b", relay.RoleWrite, "beta")
	between := time.Now()
	const callback = `{"url":"https://bms.example/hook/` + secretText + `"}`
	a.put("/v1/callbacks/cb-a", callback).want(201)
	a.get("/v1/callbacks/cb-a").want(200)
	a.delete("/v1/callbacks/cb-x").want(404) // refused before anything was looked at
	a.put("/v1/callbacks/cb-a", `{"url":"`+secretText+`"}`).want(422)
	aRead := f.key("client-a", relay.RoleRead)
	aRead.delete("/v1/callbacks/cb-a").want(403) // likewise
	f.admin().post("/v1/callbacks?client=client-b", callback, "Idempotency-Key", "once").want(201)
	made := f.admin().post("/v1/callbacks?client=client-b", callback, "Idempotency-Key",
		"once").want(201).header.Get("Location")
	b.delete(made).want(204)

	if got, want := brief(aManage.audited("")), strings.Join([]string{
		"client-a putCallback /v1/callbacks/cb-a 422 invalid-body",
		"client-a putCallback /v1/callbacks/cb-a 201 /v1/callbacks/cb-a",
	}, "\n"); got != want {
		t.Errorf("client-a sees\n%s\nwant\n%s", got, want)
	}
	if got := brief(f.admin().audited("&client=client-a")); got != brief(aManage.audited("&client=client-a")) {
		t.Errorf("of client-a the admin sees\n%s", got)
	}
	since := "&since=" + between.UTC().Format(time.RFC3339Nano)
	if got, want := brief(f.admin().audited(since)), strings.Join([]string{
		"client-b deleteCallback " + made + " 204",
		"admin createCallback /v1/callbacks for client-b 201 " + made + " replayed",
		"admin createCallback /v1/callbacks for client-b 201 " + made,
		"admin createKey /v1/clients/client-a/keys 201 /v1/clients/client-a/keys/" + idOf(aRead),
		"client-a putCallback /v1/callbacks/cb-a 422 invalid-body",
		"client-a putCallback /v1/callbacks/cb-a 201 /v1/callbacks/cb-a",
	}, "\n"); got != want {
		t.Errorf("the admin sees\n%s\nwant\n%s", got, want)
	}
	until := "&until=" + between.UTC().Format(time.RFC3339Nano)
	if got, want := brief(f.admin().audited(until)), strings.Join([]string{
		"admin createKey /v1/clients/client-b/keys 201 /v1/clients/client-b/keys/" + idOf(b),
		"admin putClient /v1/clients/client-b 201 /v1/clients/client-b",
		"admin createKey /v1/clients/client-a/keys 201 /v1/clients/client-a/keys/" + idOf(aManage),
		"admin createKey /v1/clients/client-a/keys 201 /v1/clients/client-a/keys/" + idOf(a),
		"admin putClient /v1/clients/client-a 201 /v1/clients/client-a",
	}, "\n"); got != want {
		t.Errorf("before that the admin sees\n%s\nwant\n%s", got, want)
	}
	all := f.admin().get("/v1/audit?limit=100").want(200)
	for _, secret := range []string{secretText, a.token, adminToken, "bms.example"} {
		if strings.Contains(string(all.body), secret) {
			t.Errorf("%q is in the log of changes: %s", secret, all.body)
		}
	}
	first := aManage.audited("")[0]
	if first.Key != idOf(a) || first.Remote != "127.0.0.1" || first.Method != "PUT" || len(first.RequestId) < 8 ||
		time.Since(first.At) > time.Hour || first.Outcome.At.Before(first.At) {
		t.Errorf("an entry is %+v", first)
	}
	aManage.get("/v1/audit?client=client-b").want(404)
	aManage.get("/v1/audit?after=AAAA").want(400)

	// A client that is made again under the id sees nothing of what the one before did.
	a.delete("/v1/callbacks/cb-a").want(204)
	f.admin().delete("/v1/clients/client-a").want(204)
	f.client("client-a", relay.RoleWrite, "alpha")
	if got := f.key("client-a", relay.RoleManage).audited(""); len(got) > 0 {
		t.Errorf("the next client of the id sees\n%s", brief(got))
	}
}

// Whatever makes one thing is in the log of changes with the path of that, of which the answer has the id.
func TestTheLogOfChangesNamesWhatWasMade(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.acme()
	tried := makings()
	for name, below := range map[string]string{
		"createCallback": "/v1/callbacks", "createKey": tried["createKey"].path,
		"createReplay": tried["createReplay"].path, "retryDelivery": tried["createReplay"].path,
		"createConsentLink":  tried["createConsentLink"].path,
		"createConsentLinks": "", "rotateSecret": "", // many links; a secret has no path
	} {
		var body struct{ ID, Replay string }
		f.admin().post(tried[name].path, tried[name].body).into(&body)
		want := ""
		if below != "" {
			want = below + "/" + cmp.Or(body.Replay, body.ID)
		}
		if e := f.admin().audited("")[0]; e.Operation != name || e.Outcome.Made != want || e.Outcome.Status/100 != 2 {
			t.Errorf("%s has made %q, want %q: %+v", name, e.Outcome.Made, want, e)
		}
		delete(tried, name)
	}
	if len(tried) > 0 {
		t.Errorf("not tried: %v", tried)
	}
}

// What cannot be recorded is not done. What was done stays done if only its end cannot be recorded.
func TestNothingIsChangedThatIsNotAudited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	var refused atomic.Int32 // of this many records the next one passes, and the others are refused
	before := func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "relay.audit.") && refused.Add(-1) < 0 {
			return store.ErrUnavailable
		}
		return nil
	}
	f.hooks.before.Store(&before)
	if p := a.put("/v1/callbacks/cb-a",
		map[string]any{"url": "https://bms.example/"}).want(503).problem("store-unavailable"); p.
		Detail != "Nothing was changed: it could not be recorded who requested the change." {
		t.Errorf("the problem is %+v", p)
	}
	a.get("/v1/callbacks/cb-a").want(404)
	refused.Store(1)
	a.put("/v1/callbacks/cb-a", map[string]any{"url": "https://bms.example/"}).want(201)
	f.hooks.before.Store(nil)
	got := f.admin().audited("&client=client-a")
	if len(got) != 1 || got[0].Outcome.Status != 0 ||
		!strings.Contains(f.log.String(), "it could not be recorded how a change ended") {
		t.Errorf("the log of changes is %+v", got)
	}
}
