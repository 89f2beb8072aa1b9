package audatex

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

const otherUUID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"

func TestOrderOfANotification(t *testing.T) {
	t.Parallel()
	upper := strings.ToUpper(testOrder)
	for _, tt := range []struct{ name, raw, want string }{
		{"new form", `{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"` + testOrder + `"}]}`, testOrder},
		{"upper case", `{"Resources":[{"ResourceType":"PARTSORDER","ResourceId":"` + upper + `"}]}`, testOrder},
		{"braces", `{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"{` + upper + `}"}]}`, testOrder},
		{"only entry of any type", `{"Resources":[{"ResourceType":"Thing","ResourceId":"` + testOrder + `"}]}`,
			testOrder},
		{"only entry without type", `{"Resources":[{"ResourceId":"` + testOrder + `"}]}`, testOrder},
		{"other property case", `{"resources":[{"resourceType":"partsOrder","resourceid":"` + testOrder + `"}]}`,
			testOrder},
		{"an order among others",
			`{"Resources":[{"ResourceType":"Assessment","ResourceId":"` + otherUUID +
				`"},{"ResourceType":"Supplier Order","ResourceId":"` + testOrder + `"}]}`, testOrder},
		{"parts order among orders",
			`{"Resources":[{"ResourceType":"WorkOrder","ResourceId":"` + otherUUID +
				`"},{"ResourceType":"Parts Order","ResourceId":"` + testOrder + `"}]}`, testOrder},
		{"the order, not its line",
			`{"Resources":[{"ResourceType":"PartsOrderLine","ResourceId":"` + otherUUID +
				`"},{"ResourceType":"PARTS.ORDER","ResourceId":"` + testOrder + `"}]}`, testOrder},
		{"the same order twice", `{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"` + testOrder +
			`"},{"ResourceType":"partsorder","ResourceId":"` + upper + `"}]}`, testOrder},
		{"one object in place of an array",
			`{"Resources":{"ResourceType":"PartsOrder","ResourceId":"` + testOrder + `"}}`,
			testOrder},
		{"entries of wrong types beside",
			`{"Resources":[null,7,"x",[],{"ResourceType":"PartsOrder","ResourceId":"` + testOrder + `"}]}`, testOrder},
		{"an address in place of the id",
			`{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"https://evil.test/partsorders/` + upper +
				`?a=b"}]}`,
			testOrder},
		{"older form",
			`{"ResourceUris":[{"Type":"PartsOrder","Value":"https://elsewhere.test/v1/partsorders/` + testOrder +
				`"}]}`, testOrder},
		{"older form, query and slash",
			`{"ResourceUris":[{"Type":"PartsOrder","Value":"/v1/partsorders/` + upper + `/?x=` +
				otherUUID + `#` + otherUUID +
				`"}]}`, testOrder},
		{"older form, escaped braces",
			`{"ResourceUris":[{"Type":"x","Value":"http://h/partsorders/%7B` + upper + `%7D"}]}`,
			testOrder},
		{"older form, told by the address",
			`{"ResourceUris":[{"Type":"a","Value":"/assessments/` + otherUUID +
				`"},{"Type":"b","Value":"/PartsOrders/` +
				testOrder + `"}]}`, testOrder},
		{"older form, bare addresses", `{"ResourceUris":["/partsorders/` + testOrder + `"]}`, testOrder},
		{"both forms", `{"Resources":[],"ResourceUris":[{"Type":"PartsOrder","Value":"` + testOrder + `"}]}`,
			testOrder},
		{"resources without an order, older with",
			`{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"7"}],"ResourceUris":[{"Type":"PartsOrder",` +
				`"Value":"/x/` +
				testOrder + `"}]}`, testOrder},

		{"no resources", `{"Topic":"PARTS.ORDER.CREATED"}`, ""},
		{"null resources", `{"Resources":null,"ResourceUris":null}`, ""},
		{"resources of a wrong type", `{"Resources":"` + testOrder + `"}`, ""},
		{"no order among several",
			`{"Resources":[{"ResourceType":"A","ResourceId":"` + testOrder + `"},{"ResourceType":"B","ResourceId":"` +
				otherUUID + `"}]}`, ""},
		{"two orders", `{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"` + testOrder +
			`"},{"ResourceType":"PartsOrder","ResourceId":"` + otherUUID + `"}]}`, ""},
		{"no uuid", `{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"../../whoami"}]}`, ""},
		{"nil uuid",
			`{"Resources":[{"ResourceType":"PartsOrder","ResourceId":"00000000-0000-0000-0000-000000000000"}]}`, ""},
		{"uuid not last", `{"ResourceUris":[{"Type":"PartsOrder","Value":"/partsorders/` + testOrder + `/parts"}]}`,
			""},
		{"uuid in the query only",
			`{"ResourceUris":[{"Type":"PartsOrder","Value":"/partsorders/?id=` + testOrder + `"}]}`, ""},
		{"an address without end",
			`{"ResourceUris":[{"Type":"PartsOrder","Value":"` + strings.Repeat("/", 1<<20) + testOrder + `"}]}`, ""},
	} {
		n := parseNotification([]byte(tt.raw))
		if n.Order != tt.want {
			t.Errorf("%s: order %q, want %q (%v)", tt.name, n.Order, tt.want, n.Err)
		}
		if (n.Err == nil) != (tt.want != "") || n.Malformed {
			t.Errorf("%s: error %v, malformed %v", tt.name, n.Err, n.Malformed)
		}
	}
}

func TestFieldsOfANotification(t *testing.T) {
	t.Parallel()
	const raw = `{"NotificationId":"A1","SubscriptionId":"x","EventType":"E","Topic":"PARTS.ORDER.CREATED","Message":{"odd":[1]},
		"CompanyCode":"GB12","SiteId":4711,"CreatedAt":"2016-01-15T09:38:44.6871504Z","New":[],
		"Resources":[{"ResourceType":"PartsOrder","ResourceId":"` + testOrder + `"}]}`
	list, _, err := ParsePage([]byte("[" + raw + "]"))
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	n := list[0]
	if n.ID != "A1" || n.Topic != "PARTS.ORDER.CREATED" || n.CreatedAt != "2016-01-15T09:38:44.6871504Z" ||
		n.SiteID != "4711" ||
		n.CompanyCode != "GB12" || n.Order != testOrder || string(n.Raw) != raw || !n.IsCreated() {
		t.Errorf("%+v", n)
	}
	for field, want := range map[string]string{
		`"SiteId":"4711"`: "4711", `"SiteId":" 4711 "`: "4711",
		`"SiteId":12345678901234567890123`: "12345678901234567890123", `"SiteId":null`: "", `"SiteId":{"a":1}`: "",
		`"SiteId":[4711]`: "", `"x":1`: "", `"SiteId":true`: "true",
	} {
		if got := parseNotification([]byte("{" + field + "}")).SiteID; got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	for doc, want := range map[string]string{
		`{"EventType":"PARTS.ORDER.UPDATED"}`:               "PARTS.ORDER.UPDATED",
		`{"EventType":"PARTS.ORDER.UPDATED","Topic":""}`:    "PARTS.ORDER.UPDATED",
		`{"EventType":"A","Topic":"B"}`:                     "B",
		`{"Topic":"` + strings.Repeat("ä", 1<<20) + `x"}`:   strings.Repeat("ä", maxText/2),
		`{"Topic":"a` + strings.Repeat("😀", 100_000) + `"}`: "a" + strings.Repeat("😀", (maxText-1)/4),
	} {
		if got := parseNotification([]byte(doc)).Topic; got != want {
			t.Errorf("%.60s: %q, want %q", doc, got, want)
		}
	}
}

func TestTopics(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string][2]bool{
		"PARTS.ORDER.CREATED": {true, true}, "parts.order.created": {true, true}, "PARTS.ORDER.UPDATED": {false, true},
		"PARTS.ORDER": {false, true}, "PARTS.ORDERS.CREATED": {true, false}, "ASSESSMENT.STATUS.CREATED": {true, false},
		"CREATED": {false, false}, "": {false, false}, "PARTS.ORDER.RECREATED": {false, true},
		" PARTS.ORDER.CREATED ": {true, true},
	} {
		if IsCreated(topic) != want[0] || IsPartsOrder(topic) != want[1] {
			t.Errorf("%q: created %v, parts order %v", topic, IsCreated(topic), IsPartsOrder(topic))
		}
	}
}

func TestParsePageKeepsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	const good = `{"Topic":"T","Resources":[{"ResourceType":"PartsOrder","ResourceId":"` + testOrder + `"}]}`
	for _, tt := range []struct {
		name, page string
		want       string // g: with an order, e: without, m: malformed
		wantErr    bool
	}{
		{"empty", "", "", false},
		{"spaces", " \r\n", "", false},
		{"empty array", "[ ]", "", false},
		{"null", "null", "", false},
		{"byte order mark", "\xef\xbb\xbf[" + good + "]", "g", false},
		{"an object", good, "g", false},
		{"two", "[" + good + ", " + good + " ]", "gg", false},
		{"null between", "[" + good + ",null," + good + "]", "gmg", false},
		{"wrong types between", `[1,"a]{",[` + good + `],true,` + good + `,{}]`, "mmmmge", false},
		{"no JSON between", "[" + good + ",{bad}," + good + "]", "gmg", false},
		{"brackets in strings", `[{"Message":"]},{\"[\\"},` + good + "]", "eg", false},
		{"not UTF-8 in a string", "[{\"Message\":\"\xff\xfe\"}," + good + "]", "eg", false},
		{"trailing comma", "[" + good + ",]", "g", false},
		{"cut in an element", "[" + good + "," + good + `,{"Notif`, "ggm", true},
		{"cut in a string", "[" + good + `,{"Notif":"a,],`, "gm", true},
		{"cut after a space", "[" + good + `,{"Notif":"a `, "gm", true},
		{"cut after a space of another kind", "[" + good + ",{\"Notif\":\"\u1680", "gm", true},
		{"cut after an escape", "[" + good + `,{"Notif":"\`, "gm", true},
		{"cut after a comma", "[" + good + ",", "g", true},
		{"cut after an element", "[" + good, "g", true},
		{"cut at the start", "[", "", true},
		{"bytes after it", "[" + good + "] x", "gm", true},
		{"HTML", "<html>[" + good + "]</html>", "m", true},
		{"a string", `"x"`, "m", true},
		{"a cut object", good[:50], "m", true},
	} {
		list, _, err := ParsePage([]byte(tt.page))
		var got strings.Builder
		for _, n := range list {
			switch {
			case n.Malformed && n.Err != nil && n.Order == "":
				got.WriteByte('m')
			case n.Order == testOrder && n.Err == nil:
				got.WriteByte('g')
			case n.Err != nil && n.Order == "":
				got.WriteByte('e')
			default:
				got.WriteByte('?')
			}
			if len(n.Raw) == 0 {
				t.Errorf("%s: an element without bytes", tt.name)
			}
		}
		if got.String() != tt.want || (err != nil) != tt.wantErr || (err != nil && !errors.Is(err, ErrPage)) {
			t.Errorf("%s: %q, want %q (%v)", tt.name, got.String(), tt.want, err)
		}
	}
}

func TestParsePageIsBounded(t *testing.T) {
	t.Parallel()
	page := append(bytes.Repeat([]byte("0,"), 4<<20), '1')
	list, _, err := ParsePage(append(append([]byte("["), page...), ']'))
	if len(list) != maxElements+1 || !errors.Is(err, ErrPage) {
		t.Errorf("%d elements, %v", len(list), err)
	}
	exactly := "[" + strings.Repeat("{},", maxElements-1) + "{}]"
	if list, _, err := ParsePage([]byte(exactly)); len(list) != maxElements || err != nil {
		t.Errorf("%d elements, %v", len(list), err)
	}
	for name, bomb := range map[string]string{
		"closed": strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20),
		"open":   strings.Repeat("[", 4<<20),
		"object": `{"Resources":` + strings.Repeat(`[{"a":`, 1<<19),
		"inside": `[{"Resources":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}]",
		"string": `[{"Topic":"` + strings.Repeat("x", 7<<20) + `"}]`,
	} {
		list, _, _ := ParsePage([]byte(bomb))
		if len(list) != 1 || list[0].Err == nil {
			t.Errorf("%s: %d elements", name, len(list))
		}
	}
}

// Any cut of a page yields every complete element before the cut and keeps the rest.
func TestACutPageLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var want []string
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			m := map[string]any{
				"Topic": rapid.String().Draw(t, "topic"),
				"Message": rapid.SampledFrom([]any{"]", "}{", `\"`, nil, 7, []any{[]any{}, "[,"},
					map[string]any{"a,]": "}"}}).Draw(t, "message"),
			}
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, string(b))
		}
		page := "[" + strings.Join(want, ",") + "]"
		at := rapid.IntRange(0, len(page)).Draw(t, "cut")
		list, _, err := ParsePage([]byte(page[:at]))
		if (err == nil) != (at == 0 || at == len(page)) {
			t.Fatalf("cut at %d of %d: %v", at, len(page), err)
		}
		var back strings.Builder
		for i, n := range list {
			if i > 0 {
				back.WriteByte(',')
			}
			back.Write(n.Raw)
			if last := i == len(list)-1; n.Malformed && (!last || at == len(page)) {
				t.Fatalf("element %d of %d is malformed: %s", i, len(list), n.Raw)
			}
			if !n.Malformed && string(n.Raw) != want[i] {
				t.Fatalf("element %d is %s, want %s", i, n.Raw, want[i])
			}
		}
		kept, rest := back.String(), strings.TrimPrefix(page[:at], "[")
		if at == len(page) {
			rest = strings.TrimSuffix(rest, "]")
		}
		if strings.TrimSuffix(kept, ",") != strings.TrimSuffix(rest, ",") {
			t.Fatalf("kept %q of %q", kept, rest)
		}
	})
}

// What is set aside of a page that came as XML is one element of it, and is read again when it is tried again. Entries
// are read in every way .NET writes them.
func TestNotificationsAsXML(t *testing.T) {
	t.Parallel()
	const entry = `<ResourceId>` + testOrder + `</ResourceId><ResourceType>PartsOrder</ResourceType>`
	for name, tt := range map[string]struct {
		page, order string
		count       int
	}{
		"one element": {`<NotificationMessage><Resources><Resource>` + entry +
			`</Resource></Resources></NotificationMessage>`, testOrder, 1},
		"two elements": {strings.Repeat(`<NotificationMessage><Topic>A</Topic><Resources><a:R xmlns:a="x">`+entry+
			`</a:R></Resources></NotificationMessage>`, 2), testOrder, 2},
		"entries without list": {`<ArrayOfNotificationMessage><N><Resources>` + entry +
			`</Resources></N></ArrayOfNotificationMessage>`, testOrder, 1},
		"texts": {`<ArrayOfNotificationMessage><N><ResourceUris><string>/partsorders/` + testOrder +
			`</string></ResourceUris></N></ArrayOfNotificationMessage>`, testOrder, 1},
		"prefixes": {`<d:ArrayOfNotificationMessage xmlns:d="x"><d:N><d:Resources><d:R>` + entry +
			`</d:R></d:Resources></d:N></d:ArrayOfNotificationMessage>`, testOrder, 1},
		"declaration": {`<?xml version="1.0" encoding="utf-16"?><!-- x --><ArrayOfNotificationMessage/>`, "",
			0},
		"nothing of an order": {`<NotificationMessage><Topic>A</Topic></NotificationMessage>`, "", 1},
		"too deep": {`<NotificationMessage>` + strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100) +
			`</NotificationMessage>`, "", 1},
		"entities": {`<!DOCTYPE a [<!ENTITY b "cc">]><NotificationMessage><Topic>&b;</Topic></NotificationMessage>`, "",
			1},
	} {
		list, _, err := ParsePage([]byte(tt.page))
		if len(list) != tt.count || tt.count > 0 && list[0].Order != tt.order ||
			(err != nil) != (name == "too deep" || name == "entities") {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
}

func FuzzParsePage(f *testing.F) {
	for _, s := range []string{
		"", "[]", "null", "[{}]", `{"a":1}`, "[1,2", "[[[[", `["]"]`, "\xef\xbb\xbf[]",
		`[{"NotificationId":"x","Topic":"PARTS.ORDER.CREATED","SiteId":1,"Resources":[{"ResourceType":"PartsOrder",` +
			`"ResourceId":"` + testOrder + `"}]}]`,
		`[{"ResourceUris":[{"Type":"PartsOrder","Value":"http://h/partsorders/%7B` + testOrder + `%7D/?q#f"}]}, {bad}]`,
	} {
		f.Add([]byte(s))
	}
	addRecorded(f, "poll")
	f.Fuzz(func(t *testing.T, page []byte) {
		list, _, err := ParsePage(page)
		var elements []json.RawMessage
		if json.Unmarshal(trimJSON(page), &elements) == nil && len(elements) <= maxElements {
			if err != nil || len(list) != len(elements) {
				t.Fatalf("%d of %d elements of a valid page, %v", len(list), len(elements), err)
			}
		}
		total := 0
		for i, n := range list {
			total += len(n.Raw)
			if !bytes.Contains(page, n.Raw) || len(n.Raw) == 0 {
				t.Fatalf("element %d is not of the page: %q", i, n.Raw)
			}
			if n.Malformed == json.Valid(n.Raw) && bytes.HasPrefix(n.Raw, []byte("{")) {
				t.Fatalf("element %d: malformed %v: %q", i, n.Malformed, n.Raw)
			}
			if (n.Order == "") != (n.Err != nil) {
				t.Fatalf("element %d: order %q with %v", i, n.Order, n.Err)
			}
			if id, ok := canonicalUUID(n.Order); n.Order != "" && (!ok || id != n.Order) {
				t.Fatalf("order %q is not canonical", n.Order)
			}
			for _, s := range []string{n.ID, n.Topic, n.CreatedAt, n.SiteID, n.CompanyCode} {
				if len(s) > maxText || !utf8.ValidString(s) {
					t.Fatalf("text of %d bytes: %q", len(s), s)
				}
			}
		}
		if total > len(page) {
			t.Fatalf("%d bytes of elements in a page of %d", total, len(page))
		}
	})
}

func ExampleParsePage() {
	list, _, err := ParsePage([]byte(`[{"Topic":"PARTS.ORDER.UPDATED","ResourceUris":[{"Type":"PartsOrder",` +
		`"Value":"https://host.example/partsorders/5F0C2A34-9D1E-4C6B-8A7F-0123456789AB"}]}]`))
	fmt.Println(list[0].Topic, list[0].Order, err)
	// Output: PARTS.ORDER.UPDATED 5f0c2a34-9d1e-4c6b-8a7f-0123456789ab <nil>
}
