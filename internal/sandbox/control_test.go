package sandbox_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

// The control API over HTTP does what the methods do; rows build on one another.
func TestControlAPI(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Tame: true})
	token := v.site("4711") // grant-1
	sub := v.subscribe(sandbox.Site, token)
	const id, raw = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"

	for _, row := range []struct {
		name, method, path, body string
		status                   int
		want                     string // part of the response
	}{
		{"grant", "POST", "/grants", `{"level":"company","sites":["4711","4712"],"companyCode":"ACME"}`, 201,
			`{"id":"grant-2","refreshToken":"rt-`},
		{"grant nothing", "POST", "/grants", `{"level":"site"}`, 400, `{"error":"granting: a consent names`},
		{"misspelled", "POST", "/grants", `{"site":"4711"}`, 400, `unknown field`},
		{"not JSON", "POST", "/grants", `nothing`, 400, `{"error":"reading the body`},
		{"expire", "POST", "/grants/grant-2/expire", "", 204, ""},
		{"expire nobody's", "POST", "/grants/grant-9/expire", "", 404, `no such grant`},
		{"revoke", "DELETE", "/grants/grant-2", "", 204, ""},
		{"revoke nobody's", "DELETE", "/grants/grant-9", "", 404, `no such grant`},
		{"sign in", "PUT", "/consent", `{"sites":["4711"]}`, 204, ""},
		{"sign in nobody", "PUT", "/consent", `{}`, 400, `a consent names`},
		{"sign out", "DELETE", "/consent", "", 204, ""},
		{"create", "POST", "/orders", `{"site":"4711","id":"` + id + `","parts":2,"orderReference":"a<b"}`, 201,
			`{"id":"` + id + `","site":"4711","status":"New","revision":1,"ended":false,`},
		{"create twice", "POST", "/orders", `{"site":"4711","id":"` + id + `"}`, 400, `exists`},
		{"advance", "POST", "/orders/" + id + "/advance", "", 200, `"status":"Confirmed","revision":2`},
		{"change", "POST", "/orders/" + id + "/change", `{"status":"Delivered","silent":true}`, 200,
			`"status":"Delivered","revision":3,"ended":true`},
		{"advance past the end", "POST", "/orders/" + id + "/advance", "", 409, `come to its end`},
		{"touch", "POST", "/orders/" + id + "/touch", "", 204, ""},
		{"touch nothing", "POST", "/orders/17/touch", "", 404, `no such order`},
		{"read", "GET", "/orders/" + id, "", 200, `"OrderReference":"a\u003cb","Status":"Delivered"`},
		{"set raw", "PUT", "/orders/" + raw + "?site=4711", `{"Status":"Odd","P":1.50}`, 200, `"status":"Odd"`},
		{"set what is not JSON", "PUT", "/orders/" + raw + "?site=4711", `{broken`, 200, `"order":"{broken"`},
		{"set without site", "PUT", "/orders/" + raw, `{}`, 400, `a site and a uuid`},
		{"advance raw", "POST", "/orders/" + raw + "/advance", "", 409, `raw JSON`},
		{"raw message", "POST", "/notifications?site=4711", `{"Topic":"X"}`, 200, `{"queues":1}`},
		{"raw message to nobody", "POST", "/notifications", `{}`, 400, `?site=`},
		{"subscriptions", "GET", "/subscriptions", "", 200,
			`[{"id":"` + sub + `","level":"site","owner":"4711","topic":"PARTS.ORDER","waiting":4}]`},
		{"counters", "GET", "/counters", "", 200, `"notificationsQueued":4`},
		{"ledger", "GET", "/ledger", "", 200,
			`{"orders":[{"id":"` + id + `","site":"4711","removed":false,"states":[{"status":"New","at":"`},
		{"faults", "PUT", "/faults",
			`{"share500":0.5,"latencyMilliseconds":250,"shareLatency":1,"retryAfterSeconds":3,"operations":["poll"]}`,
			204, ""},
		{"several faults", "PUT", "/faults",
			`[{"share500":0.5,"latencyMilliseconds":250,"shareLatency":1,"retryAfterSeconds":3,"operations":["poll"]},` +
				`{"shareCut":1,"paths":["/x"]}]`, 204, ""},
		{"bad faults", "PUT", "/faults", `{"share500":2}`, 400, `share500 is 2`},
		{"read faults", "GET", "/faults", "", 200,
			`[{"share500":0.5,"share429":0,"share503":0,"shareCut":0,"shareCutAfterRead":0,"shareLatency":1,` +
				`"operations":["poll"],"latencyMilliseconds":250,"retryAfterSeconds":3},{`},
		{"remove order", "DELETE", "/orders/" + raw, "", 204, ""},
		{"remove it again", "DELETE", "/orders/" + raw, "", 404, `no such order`},
		{"remove subscription", "DELETE", "/subscriptions/" + sub, "", 204, ""},
		{"remove it again", "DELETE", "/subscriptions/" + sub, "", 404, `no such subscription`},
		{"lost orders", "GET", "/lost-orders", "", 200, `["` + id + `"]`},
		{"reset", "POST", "/reset", "", 204, ""},
		{"after reset", "GET", "/counters", "", 200, `"ordersCreated":0`},
		{"no faults after reset", "GET", "/faults", "", 200, `[]`},
	} {
		got, err := v.try(row.method, sandbox.ControlPath+row.path, "", nil, row.body)
		if err != nil {
			t.Fatal(err)
		}
		if got.status != row.status || !strings.Contains(got.body, row.want) || row.status == 204 && got.body != "" {
			t.Errorf("%s: got %d %s, want %d …%s…", row.name, got.status, got.body, row.status, row.want)
		}
		if row.name == "several faults" {
			want := sandbox.Faults{Share500: 0.5, Latency: 250 * time.Millisecond, ShareLatency: 1,
				RetryAfter: 3 * time.Second}
			f := v.Faults()
			if len(f) != 2 || f[0].Share500 != want.Share500 || f[0].Latency != want.Latency ||
				f[0].RetryAfter != want.RetryAfter || f[1].ShareCut != 1 {
				t.Errorf("faults became %+v", f)
			}
		}
		if row.name == "ledger" && !json.Valid([]byte(got.body)) {
			t.Errorf("the ledger is not JSON: %s", got.body)
		}
	}
	if got := v.do("GET", api+"/whoami", token); got.status != http.StatusUnauthorized {
		t.Errorf("a token from before the reset: %d", got.status)
	}
}

// The ledger's HTTP response keeps every digit of the orders.
func TestLedgerOverHTTPKeepsDigits(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	for range 30 {
		v.create("4711", sandbox.OrderOptions{})
	}
	var ledger struct {
		Orders []struct {
			States []struct{ Order json.RawMessage }
		}
	}
	v.do("GET", sandbox.ControlPath+"/ledger", "").decode(t, &ledger)
	tokensOf := func(raw json.RawMessage) (out []string) {
		d := json.NewDecoder(strings.NewReader(string(raw)))
		d.UseNumber()
		for {
			token, err := d.Token()
			if err != nil {
				return out
			}
			if n, ok := token.(json.Number); ok {
				out = append(out, n.String())
			}
		}
	}
	for i, o := range v.Ledger().Orders {
		want, got := tokensOf(o.States[0].JSON), tokensOf(ledger.Orders[i].States[0].Order)
		if len(want) == 0 || strings.Join(want, " ") != strings.Join(got, " ") {
			t.Errorf("order %d: numbers %v, want %v", i, got, want)
		}
	}
}
