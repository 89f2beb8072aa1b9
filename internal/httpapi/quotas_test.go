package httpapi

import (
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// A client has no more than its limits allow. It is shown how many it has and may have, and an
// administrator can change that.
func TestAClientHasLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	var me Me
	a.get("/v1/me").want(200).into(&me)
	if q := me.Quotas; q.Callbacks != (Quota{1000, 0}) || q.Keys != (Quota{100, 1}) ||
		q.WaitingRequests != (Quota{100, 0}) ||
		q.Replays != (Quota{20, 0}) || q.TestsPerMinute != 60 {
		t.Errorf("without limits of its own it has %+v", q)
	}
	limits := map[string]any{"callbacks": 1, "keys": 2, "testsPerMinute": 1, "replays": 1, "waitingRequests": 1}
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"alpha"}, "limits": limits}).want(200)
	a.put("/v1/callbacks/cb-a", map[string]any{"url": "http://127.0.0.1:9/"}).want(201)
	refused := func(got answer, slug string, words ...string) {
		t.Helper()
		p := got.problem(slug)
		for _, word := range words {
			if !strings.Contains(p.Detail, word) {
				t.Errorf("%s does not say %q", p.Detail, word)
			}
		}
	}
	refused(a.put("/v1/callbacks/cb-b", map[string]any{"url": "http://127.0.0.1:9/"}).want(409), "limit-reached",
		"has 1 callbacks and may have 1", "administrator")
	f.key("client-a", relay.RoleRead)
	refused(f.admin().post("/v1/clients/client-a/keys", nil).want(409), "limit-reached", "has 2 keys and may have 2")
	f.replay("cb-a", relay.ReplayRunning)
	eventually(t, func() bool {
		a.get("/v1/me").want(200).into(&me)
		return me.Quotas.Replays == Quota{1, 1}
	})
	refused(a.post("/v1/callbacks/cb-a/replays", map[string]any{"deliveryStatuses": []string{"failed"}}).want(409),
		"limit-reached", "has 1 running replays and may have 1")
	if q := me.Quotas; q.Callbacks != (Quota{1, 1}) || q.Keys != (Quota{2, 2}) || q.TestsPerMinute != 1 {
		t.Errorf("with limits of its own it has %+v", q)
	}
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"alpha"}}).want(200)
	a.put("/v1/callbacks/cb-b", map[string]any{"url": "http://127.0.0.1:9/"}).want(201)
	f.admin().put("/v1/clients/client-a", map[string]any{"limits": map[string]any{"callbacks": 0}}).want(422)
}
