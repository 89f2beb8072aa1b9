package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestAPathThatDoesNotExistIsNamed scans for paths: the log names the first, and nothing that may be a secret.
func TestAPathThatDoesNotExistIsNamed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := "ark_abcdefghijkl_x"
	f.as("").get("/v1/orderz/" + key + "/" + adminToken + "/" + strings.Repeat("k", 25) +
		"/a%20b/x/y/z").want(http.StatusNotFound)
	for i := range 200 {
		f.as("").get(fmt.Sprint("/wp-", i, ".php")).want(http.StatusNotFound)
	}
	f.as("").do("BREW", "/coffee", nil).want(http.StatusNotFound)
	log := f.log.String()
	if !strings.Contains(log,
		`"a path was asked for that does not exist","method":"GET","path":"/v1/orderz/…/…/…/…/…"`) {
		t.Errorf("the path is not named: %s", log)
	}
	if n := strings.Count(log, "a path was asked for"); n != 1 {
		t.Errorf("%d lines", n)
	}
	for _, no := range []string{"wp-", key, adminToken, "coffee"} {
		if strings.Contains(log, no) {
			t.Errorf("the log has %s", no)
		}
	}
}
