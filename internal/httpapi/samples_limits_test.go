package httpapi

import (
	"errors"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// A client's tests have a low rate over all its callbacks, separate from other clients. If the
// owner of a callback refuses, the response has a time to come back. If the owner does not respond,
// it is 503.
func TestTestsOfCallbacksAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.testsPerSecond, c.testBurst = 0.001, 3 })
	a, b := f.client("client-a", relay.RoleWrite, "alpha"), f.client("client-b", relay.RoleWrite, "alpha")
	receiver := map[string]any{"url": "http://127.0.0.1:9/"}
	for _, id := range []string{"a-1", "a-2"} {
		a.put("/v1/callbacks/"+id, receiver).want(201)
	}
	b.put("/v1/callbacks/b-1", receiver).want(201)
	for _, id := range []string{"a-1", "a-2", "a-1"} {
		a.post("/v1/callbacks/"+id+"/test", map[string]any{}).want(200)
	}
	for _, s := range []session{a, f.admin()} {
		got := s.post("/v1/callbacks/a-2/test", map[string]any{}).want(429)
		if got.problem("too-many-requests"); got.header.Get("Retry-After") != "1000" {
			t.Errorf("Retry-After: %s", got.header)
		}
	}
	f.parts.set(func() {
		f.parts.tests = &TestRefusedError{Reason: "A test of this callback is under way.",
			Again: 1500 * time.Millisecond}
	})
	got := b.post("/v1/callbacks/b-1/test", map[string]any{}).want(429)
	if p := got.problem("too-many-requests"); p.Detail != "A test of this callback is under way." ||
		got.header.Get("Retry-After") != "2" {
		t.Errorf("%+v, %s", p, got.header)
	}
	f.parts.set(func() { f.parts.tests = errors.New("the owner of the shard does not answer") })
	b.post("/v1/callbacks/b-1/test", map[string]any{}).want(503).problem("not-available")
}
