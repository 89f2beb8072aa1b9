package cluster

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// vendor is the vendor's double behind one front for each replica: so it is known who called.
type vendor struct {
	*sandbox.Sandbox
	fronts [replicas]*harness.Tracked

	mu    sync.Mutex
	calls []*call
}

// call is one request of a replica's to the vendor.
type call struct {
	replica int
	what    operation
	subject string    // the subscription polled, or the order read
	began   time.Time // when the request had arrived
	ended   time.Time // zero while it is under way
	answer  string    // its correlation id, once it has ended
}

type operation int

const (
	otherCall operation = iota
	pollCall
	orderCall
	tokenCall
)

func newVendor(t *testing.T, config sandbox.Config) *vendor {
	t.Helper()
	v := &vendor{Sandbox: sandbox.New(config)}
	for n := range v.fronts {
		v.fronts[n] = harness.ServeTracked(t, harness.Listen(t), v.front(n))
	}
	return v
}

// front notes every call of one replica's.
func (v *vendor) front(replica int) http.Handler {
	inner := v.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{replica: replica, began: time.Now()}
		c.what, c.subject = classify(r)
		v.mu.Lock()
		v.calls = append(v.calls, c)
		v.mu.Unlock()
		defer func() { // also when the response is cut
			v.mu.Lock()
			defer v.mu.Unlock()
			c.ended, c.answer = time.Now(), w.Header().Get("Correlation-Id")
		}()
		inner.ServeHTTP(w, r)
	})
}

// classify returns what a request is for.
func classify(r *http.Request) (operation, string) {
	if r.URL.Path == sandbox.TokenPath {
		return tokenCall, ""
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, sandbox.APIPath+"/v1/bmsapi/"), "/")
	switch {
	case len(parts) == 4 && parts[1] == "subscriptions" && parts[3] == "notifications":
		return pollCall, parts[2]
	case len(parts) == 2 && parts[0] == "partsorders":
		return orderCall, strings.ToLower(parts[1])
	}
	return otherCall, ""
}

// all returns a copy of the calls so far.
func (v *vendor) all() []call {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]call, len(v.calls))
	for i, c := range v.calls {
		list[i] = *c
	}
	return list
}

// siteOf is our name of a vendor's site, vendorSite the vendor's own id of a site.
func siteOf(vendor string) string { return "site-" + strings.TrimPrefix(vendor, "V") }

func vendorSite(site string) string { return "V" + strings.TrimPrefix(site, "site-") }
