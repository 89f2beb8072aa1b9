package relay_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestDiff(t *testing.T) {
	t.Parallel()
	part := func(oe, ordered, rest string) string {
		return fmt.Sprintf(`{"OEPartNumber":%q,"OrderedPartNumber":%q%s}`, oe, ordered, rest)
	}
	for name, c := range map[string]struct {
		before, after string
		want          []string
	}{
		"first sight":           {``, `{"Status":"New"}`, nil},
		"equal":                 {`{"Status":"New"}`, ` { "Status" : "New" } `, nil},
		"status":                {`{"Status":"New"}`, `{"Status":"Confirmed"}`, []string{`/Status "New" "Confirmed"`}},
		"order of the document": {`{"A":1,"B":2}`, `{"B":3,"A":4}`, []string{`/B 2 3`, `/A 1 4`}},
		"unknown field comes":   {`{}`, `{"New/~Field":[1]}`, []string{`/New~1~0Field null [1]`}},
		"field goes":            {`{"X":1}`, `{}`, []string{`/X 1 null`}},
		"nested": {`{"S":{"Name":"a","Old":1}}`, `{"S":{"Name":"b"}}`,
			[]string{`/S/Name "a" "b"`, `/S/Old 1 null`}},
		"object for a text":  {`{"S":"a"}`, `{"S":{"N":1}}`, []string{`/S "a" {"N":1}`}},
		"other arrays whole": {`{"L":[1,2]}`, `{"L":[1,3]}`, []string{`/L [1,2] [1,3]`}},
		"null is absent":     {`{"D":null}`, `{}`, nil},
		"no date is absent":  {`{"D":"0001-01-01T00:00:00"}`, `{"D":null}`, nil},
		"no date in any dress": {`{"D":"0001-01-01T00:00:00.0000000Z","L":[{"D":null}]}`,
			`{"D":"0001-01-01T00:00:00+01:00","L":[{}]}`, nil},
		"almost no date":     {`{"D":"0001-01-01T00:00:00.1"}`, `{}`, []string{`/D "0001-01-01T00:00:00.1" null`}},
		"number by value":    {`{"P":12.50,"Q":1e2,"R":-0,"L":[1.0]}`, `{"P":12.5,"Q":100,"R":0.0,"L":[1]}`, nil},
		"bytes as they came": {`{"P":12.50}`, `{"P":12.510}`, []string{`/P 12.50 12.510`}},
		"number is no text":  {`{"P":1}`, `{"P":"1"}`, []string{`/P 1 "1"`}},
		"beyond floats": {`{"P":0.1000000000000000000000001}`, `{"P":0.1}`,
			[]string{`/P 0.1000000000000000000000001 0.1`}},
		"exponent bomb": {`{"P":1e999999999}`, `{"P":1e999999998}`, []string{`/P 1e999999999 1e999999998`}},
		"exponent beyond int64": {`{"P":1e99999999999999999999}`, `{"P":10e99999999999999999998}`,
			[]string{`/P 1e99999999999999999999 10e99999999999999999998`}},
		"parts moved": {
			`{"Parts":[` + part("a", "1", "") + `,` + part("b", "2", "") + `]}`,
			`{"Parts":[` + part("b", "2", "") + `,` + part("a", "1", "") + `]}`, nil,
		},
		"part changed where it stands now": {
			`{"Parts":[` + part("a", "1", `,"Status":"New"`) + `]}`,
			`{"Parts":[` + part("b", "2", "") + `,` + part("a", "1", `,"Status":"Confirmed"`) + `]}`,
			[]string{`/Parts/0 b 2 1 null ` + part("b", "2", ""), `/Parts/1/Status a 1 1 "New" "Confirmed"`},
		},
		"equal numbers by occurrence": {
			`{"Parts":[` + part("a", "1", `,"Q":1`) + `,` + part("a", "1", `,"Q":2`) + `]}`,
			`{"Parts":[` + part("a", "1", `,"Q":1`) + `,` + part("a", "1", `,"Q":3`) + `]}`,
			[]string{`/Parts/1/Q a 1 2 2 3`},
		},
		"part gone": {
			`{"Parts":[` + part("a", "1", "") + `],"X":1}`, `{"Parts":null,"X":2}`,
			[]string{`/Parts/- a 1 1 ` + part("a", "1", "") + ` null`, `/X 1 2`},
		},
		"parts gone with their field": {`{"Parts":[{}]}`, `{}`, []string{`/Parts/-   1 {} null`}},
		"parts that are none":         {`{"Parts":"x"}`, `{"Parts":[1]}`, []string{`/Parts "x" [1]`}},
		"parts below are an array": {`{"S":{"Parts":[{"A":1}]}}`, `{"S":{"Parts":[{"A":2}]}}`,
			[]string{`/S/Parts [{"A":1}] [{"A":2}]`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changes, err := relay.Diff(json.RawMessage(c.before), json.RawMessage(c.after))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, ch := range changes {
				who := ""
				if p := ch.Part; p != nil {
					who = fmt.Sprintf(" %s %s %d", p.OEPartNumber, p.OrderedPartNumber, p.Occurrence)
				}
				got = append(got, fmt.Sprintf("%s%s %s %s", ch.Path, who, ch.From, ch.To))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestDiffRefusesWhatIsNoObject(t *testing.T) {
	t.Parallel()
	for _, after := range []string{``, `[]`, `"x"`, `{`, `{"a":1}x`} {
		if _, err := relay.Diff(json.RawMessage(`{}`), json.RawMessage(after)); err == nil {
			t.Errorf("%q was taken for an order", after)
		}
	}
}

func TestDiffIsBounded(t *testing.T) {
	t.Parallel()
	var b, a strings.Builder
	for i := range relay.MaxChanges + 1 {
		fmt.Fprintf(&b, `"f%d":1,`, i)
		fmt.Fprintf(&a, `"f%d":2,`, i)
	}
	changes, err := relay.Diff(json.RawMessage(`{`+b.String()+`"z":0}`), json.RawMessage(`{`+a.String()+`"z":0}`))
	if err != nil || len(changes) != relay.MaxChanges {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	if last := changes[len(changes)-1]; last.Path != "" || string(last.From) != "null" || string(last.To) != "null" {
		t.Errorf("the last change does not say that there are more: %+v", last)
	}
}

func TestStatusOf(t *testing.T) {
	t.Parallel()
	for order, want := range map[string]string{`{"Status":"New"}`: "New", `{"Status":null}`: "", `{}`: "", `[]`: "",
		`{"Status":7}`: "7"} {
		if got := relay.StatusOf(json.RawMessage(order)); got != want {
			t.Errorf("%s: %q, want %q", order, got, want)
		}
	}
}

// value draws a JSON value as one might come from the vendor.
func value(depth int) *rapid.Generator[any] {
	kinds := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Just[any]("0001-01-01T00:00:00"), rapid.Just[any](true),
		rapid.StringN(0, 4, 8).AsAny(),
		rapid.Custom(func(t *rapid.T) any {
			return json.Number(rapid.SampledFrom([]string{"0", "-0.0", "1", "1.0", "12.50", "12.5", "1e2", "100",
				"-3.14"}).Draw(t, "number"))
		}),
	}
	if depth > 0 {
		kinds = append(kinds, rapid.SliceOfN(value(depth-1), 0, 3).AsAny(),
			rapid.MapOfN(name(), value(depth-1), 0, 3).AsAny())
	}
	return rapid.OneOf(kinds...)
}

func name() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"Status", "A/b", "~", "", "Ünï", "Parts", "DeliveryDate"})
}

func order() *rapid.Generator[map[string]any] {
	return rapid.Custom(func(t *rapid.T) map[string]any {
		o := rapid.MapOfN(name(), value(2), 0, 5).Draw(t, "fields")
		if rapid.Bool().Draw(t, "has parts") {
			var parts []any
			for range rapid.IntRange(0, 6).Draw(t, "parts") {
				p := rapid.MapOfN(name(), value(1), 0, 3).Draw(t, "part")
				p["OEPartNumber"] = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "oe")
				p["OrderedPartNumber"] = rapid.SampledFrom([]string{"1", "2"}).Draw(t, "ordered")
				parts = append(parts, p)
			}
			o["Parts"] = parts
		}
		return o
	})
}

func encode(t *rapid.T, v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An order has not changed against itself, nor when parts of different numbers change places.
func TestDiffOfEqualIsEmpty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := order().Draw(t, "order")
		before := encode(t, o)
		if parts, ok := o["Parts"].([]any); ok {
			seed := rapid.Uint64().Draw(t, "seed")
			rand.New(rand.NewPCG(seed, seed)).Shuffle(len(parts), func(i, j int) {
				parts[i], parts[j] = parts[j], parts[i]
			})
			// Among equal numbers the place counts: bring those back into their order.
			var was map[string]any
			if err := json.Unmarshal(before, &was); err != nil {
				t.Fatal(err)
			}
			byKey := map[string][]any{}
			list, _ := was["Parts"].([]any)
			for _, p := range list {
				byKey[keyOf(p)] = append(byKey[keyOf(p)], p)
			}
			for i, p := range parts {
				k := keyOf(p)
				parts[i], byKey[k] = byKey[k][0], byKey[k][1:]
			}
		}
		changes, err := relay.Diff(before, encode(t, o))
		if err != nil || len(changes) != 0 {
			t.Fatalf("changes %v, error %v", changes, err)
		}
	})
}

func keyOf(p any) string {
	m, _ := p.(map[string]any)
	return fmt.Sprint(m["OEPartNumber"], "|", m["OrderedPartNumber"])
}

// Every path leads to the values of its change, in the new order. There is a change in one
// direction if and only if there is one in the other.
func TestDiffPathsResolve(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before, after := encode(t, order().Draw(t, "before")), encode(t, order().Draw(t, "after"))
		changes, err := relay.Diff(before, after)
		if err != nil {
			t.Fatal(err)
		}
		checkPaths(t, after, changes)
		back, err := relay.Diff(after, before)
		if err != nil || (len(back) == 0) != (len(changes) == 0) {
			t.Fatalf("%d changes there, %d back, %v", len(changes), len(back), err)
		}
	})
}

func checkPaths(t interface {
	Fatalf(format string, args ...any)
}, after json.RawMessage, changes []relay.Change) {
	for _, c := range changes {
		if c.Path == "/Parts/-" {
			if c.Part == nil || string(c.To) != "null" {
				t.Fatalf("a part that is gone: %+v", c)
			}
			continue
		}
		at := after
		gone := false
		for _, token := range strings.Split(c.Path, "/")[1:] {
			token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
			var object map[string]json.RawMessage
			var list []json.RawMessage
			if json.Unmarshal(at, &object) == nil && object != nil {
				at, gone = object[token], object[token] == nil
				continue
			}
			i, err := strconv.Atoi(token)
			if err != nil || json.Unmarshal(at, &list) != nil || i >= len(list) {
				t.Fatalf("%s leads nowhere in %s", c.Path, after)
			}
			at = list[i]
		}
		if gone && string(c.To) != "null" || !gone && string(at) != string(c.To) {
			t.Fatalf("%s leads to %s, the change says %s", c.Path, at, c.To)
		}
	}
}

func FuzzDiff(f *testing.F) {
	f.Add(`{"Status":"New","Parts":[{"OEPartNumber":"a","P":12.50}]}`,
		`{"Parts":[{"P":1e5},{"OEPartNumber":"a","P":12.5}],"D":"0001-01-01T00:00:00Z"}`)
	f.Add(`{"a":1,"a":2}`, `{"a":{"a":{"a":[]}}}`)
	f.Add(`{"P":1e9223372036854775807}`, `{"P":-0.00e-9223372036854775808}`)
	f.Fuzz(func(t *testing.T, before, after string) {
		changes, err := relay.Diff(json.RawMessage(before), json.RawMessage(after))
		if err != nil {
			return
		}
		if len(changes) > relay.MaxChanges {
			t.Fatalf("%d changes", len(changes))
		}
		if _, err := relay.Encode(changes); err != nil {
			t.Fatalf("changes are not JSON: %v", err)
		}
		if json.Valid([]byte(after)) {
			if same, err := relay.Diff(json.RawMessage(after), json.RawMessage(after)); err != nil || len(same) != 0 {
				t.Fatalf("changed against itself: %v, %v", same, err)
			}
		}
	})
}
