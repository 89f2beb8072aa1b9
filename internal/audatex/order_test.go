package audatex

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestExtractOrder(t *testing.T) {
	t.Parallel()
	const (
		mine  = `{ "PartsOrderId":"` + testOrder + `", "Total": 12.30, "New":1e2 }`
		alien = `{"PartsOrderId":"` + otherUUID + `"}`
		anon  = `{"Status":"New","Price":0.10}`
	)
	for _, tt := range []struct {
		name, body string
		want       string
		wantErr    bool
	}{
		{"alone, digits untouched", "[" + mine + "]", mine, false},
		{"alone, upper case", `[{"PartsOrderId":"` + strings.ToUpper(testOrder) + `"}]`,
			`{"PartsOrderId":"` + strings.ToUpper(testOrder) + `"}`, false},
		{"among others", "[" + alien + "," + mine + ",null]", mine, false},
		{"alone without a name", "[" + anon + "]", anon, false},
		{"null for a name", `[{"PartsOrderId":null}]`, `{"PartsOrderId":null}`, false},
		{"byte order mark", "\xef\xbb\xbf [" + mine + "]\n", mine, false},
		{"object in place of the array", mine, mine, false},
		{"empty array", "[]", "", false},
		{"empty", " ", "", false},
		{"null", "null", "", false},
		{"error object", `{"Message":"An error has occurred."}`, "", true},
		{"another order", "[" + alien + "]", "", true},
		{"only other orders", "[" + alien + "," + alien + "]", "", true},
		{"several without a name", "[" + anon + "," + anon + "]", "", true},
		{"null in the array", "[null]", "", true},
		{"numbers", "[1,2]", "", true},
		{"cut", "[" + mine, "", true},
		{"more after it", "[" + mine + "] x", "", true},
		{"HTML", "<html></html>", "", true},
		{"not UTF-8", "[{\"PartsOrderId\":\"" + testOrder + "\",\"a\":\"\xff\"}]", "", true},
		{"as deep as may be", `[{"a":` + strings.Repeat("[", maxDepth-2) + strings.Repeat("]", maxDepth-2) + `}]`,
			`{"a":` + strings.Repeat("[", maxDepth-2) + strings.Repeat("]", maxDepth-2) + `}`, false},
		{"too deep to stand in an event and a list",
			`[{"a":` + strings.Repeat("[", 9990) + strings.Repeat("]", 9990) + `}]`,
			"", true},
		{"brackets in strings", `[{"a":"` + strings.Repeat(`[\"{`, 9990) + `"}]`,
			`{"a":"` + strings.Repeat(`[\"{`, 9990) + `"}`, false},
		{"depth bomb", strings.Repeat("[", 1<<19) + strings.Repeat("]", 1<<19), "", true},
	} {
		got, err := extractOrder([]byte(tt.body), testOrder)
		if string(got) != tt.want || (err != nil) != tt.wantErr {
			t.Errorf("%s: %s, %v", tt.name, got, err)
		}
	}
}

func TestOrderOutcomes(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]Outcome{"[]": NotFound, "": NotFound, "[1]": Malformed, "[{}]": Done} {
		c := vendor(t, Config{}, answering(200, body))
		_, err := c.Order(t.Context(), testToken, testOrder, nil)
		if e := outcomeIs(t, err, want); e != nil && (e.CorrelationID != testCorrelation || e.Status != 200) {
			t.Errorf("%q: %+v", body, e)
		}
	}
}

func FuzzExtractOrder(f *testing.F) {
	for _, s := range []string{
		"", "[]", "null", "{}", "[{}]", `[{"PartsOrderId":"` + testOrder + `","Price":1.10}]`,
		`[{"partsorderid":1},{"PartsOrderId":"` + testOrder + `"}]`,
		`{"PartsOrderId":"{` + strings.ToUpper(testOrder) + `}"}`, "[{\"a\":\"\xff\"}]", "[[", "[{}, {}]",
	} {
		f.Add([]byte(s))
	}
	addRecorded(f, "order")
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := extractOrder(body, testOrder)
		if raw == nil {
			return
		}
		if err != nil || !json.Valid(raw) || !utf8.Valid(raw) || raw[0] != '{' || !bytes.Contains(body, raw) {
			t.Fatalf("%q, %v", raw, err)
		}
		var o struct{ PartsOrderID json.RawMessage }
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		if id, ok := canonicalUUID(text(o.PartsOrderID)); text(o.PartsOrderID) != "" && (!ok || id != testOrder) {
			t.Fatalf("order %q was not asked for", raw)
		}
	})
}
