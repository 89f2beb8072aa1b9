package httpapi

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// A test's type and data may be chosen; what orders events for a receiver is always the sample's.
func TestSampleWithChosenData(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bodies := make(chan string, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
	}))
	defer receiver.Close()
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/cb", map[string]any{"url": receiver.URL + "/hooks/token-0123456789",
		"headers": map[string]string{"X-Key": "k-0123456789"}}).want(201)
	test := func(body any) (result TestResult, sent relay.Event) {
		t.Helper()
		got := a.post("/v1/callbacks/cb/test", body).want(200).into(&result)
		if err := json.Unmarshal([]byte(<-bodies), &sent); err != nil {
			t.Fatal(err)
		}
		if !sent.Test || sent.Subject == orderA ||
			!strings.HasPrefix(sent.ID, samplePrefix) || sent.Site != sampleSite {
			t.Errorf("sent %+v", sent)
		}
		for _, secret := range []string{"token-0123456789", "k-0123456789"} {
			if strings.Contains(string(got.body), secret) {
				t.Errorf("the answer tells %s: %s", secret, got.body)
			}
		}
		return result, sent
	}

	result, usual := test(nil)
	if result.Request.Method != "POST" || !strings.HasSuffix(result.Request.Url, "/hooks/[redacted]") ||
		result.Request.Headers["x-key"] != "[redacted]" ||
		result.Phases.ConnectMillis == 0 || result.Phases.FirstByteMillis == 0 || result.RemoteAddress == "" {
		t.Errorf("shown: %+v", result)
	}

	// The data of a test's response, changed.
	var data map[string]any
	if err := json.Unmarshal(usual.Data, &data); err != nil {
		t.Fatal(err)
	}
	data["order"].(map[string]any)["Status"] = "Dispatched"
	if _, sent := test(map[string]any{"data": data}); sent.Subject != sampleOrder ||
		!strings.Contains(string(sent.Data), `"Status":"Dispatched"`) {
		t.Errorf("sent %s", sent.Data)
	}
	_, sent := test(map[string]any{"type": "audatex.relay.site-unknown"})
	var unknown relay.Operational
	if err := json.Unmarshal(sent.Data, &unknown); err != nil || unknown.Details["vendorSite"] == "" {
		t.Errorf("sent %s, %v", sent.Data, err)
	}
	unknown.Details["vendorSite"] = "17"
	if _, sent := test(map[string]any{"type": "audatex.relay.site-unknown", "data": unknown}); !strings.Contains(
		string(sent.Data), `"vendorSite":"17"`) {
		t.Errorf("sent %s", sent.Data)
	}

	delete(data, "readAt")
	data["revision"] = 0
	for _, c := range []struct {
		body map[string]any
		at   []string
	}{
		{map[string]any{"data": data}, []string{"/data/readAt", "/data/revision"}},
		{map[string]any{"data": map[string]any{}, "type": "audatex.relay.reconciled"},
			[]string{"/data/kind", "/data/message"}},
		{map[string]any{"type": "audatex.relay.reconciled", "data": map[string]any{"kind": "log-clamped",
			"message": "x", "details": map[string]any{}}}, []string{"/data/kind"}},
		{map[string]any{"type": "audatex.relay.site-unknown",
			"data": map[string]any{"kind": "site-unknown", "message": "x"}}, []string{"/data/details"}},
		{map[string]any{"data": "text"}, []string{"/data"}},
		{map[string]any{"sequence": "9999999999999999"}, []string{"/sequence"}},
		{map[string]any{"subject": orderA}, []string{"/subject"}},
	} {
		a.post("/v1/callbacks/cb/test", c.body).want(422).problem("invalid-body", c.at...)
	}
}
