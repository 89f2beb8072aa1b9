package httpapi

import (
	"net/http"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// TestTheDoctorIsForAdministrators has the relay examined: a client's key does not learn that it can be.
func TestTheDoctorIsForAdministrators(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	acme := f.client("acme", relay.RoleManage, "leeds")
	acme.put("/v1/callbacks/hook", map[string]any{"url": "http://127.0.0.1:1/s3cr3t-path"}).want(http.StatusCreated)
	acme.get("/v1/doctor").want(http.StatusNotFound)
	f.as("").get("/v1/doctor").want(http.StatusUnauthorized)
	var report Examination
	f.admin().get("/v1/doctor").want(http.StatusOK).into(&report)
	if report.Replica != "replica" || report.Version != "test" || time.Since(report.At) > time.Minute {
		t.Errorf("%+v", report)
	}
	found := map[string]Check{}
	for _, c := range report.Checks {
		if c.State == "trouble" {
			found[c.Area] = c
		}
	}
	if c := found["callbacks"]; c.Subject != "http://127.0.0.1:1" || c.Remedy == "" {
		t.Errorf("a receiver that nobody listens for: %+v", c)
	}
	if c := found["replicas"]; c.Remedy == "" { // no member runs in a fixture
		t.Errorf("shards without an owner: %+v", report.Checks)
	}
}
