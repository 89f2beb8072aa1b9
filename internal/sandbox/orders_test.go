package sandbox_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/sandbox"
)

type wirePart struct {
	OEPartNumber, OrderedPartNumber, Status, DeliveryDate *string
	Quantity                                              *int32
	RepairerPrice, InsurerPrice                           *json.Number
}

type wireOrder struct {
	AssessmentId, SupplierName, PartsOrderId, OrderReference, Status, DeliveryDate *string
	Parts                                                                          []wirePart
}

func TestLifeOfATameOrder(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{Tame: true})
	token := v.site("4711")
	o := v.create("4711", sandbox.OrderOptions{Parts: 3, Reference: `A<&>"é`})
	for i, status := range []string{"New", "Confirmed", "Dispatched", "Delivered"} {
		if i > 0 {
			var err error
			if o, err = v.AdvanceOrder(o.ID); err != nil {
				t.Fatal(err)
			}
		}
		if o.Status != status || o.Revision != i+1 || o.Ended != (status == "Delivered") {
			t.Fatalf("step %d: %+v", i, o)
		}
		var list []wireOrder
		v.do("GET", api+"/partsorders/"+o.ID, token).decode(t, &list)
		if len(list) != 1 || *list[0].PartsOrderId != o.ID || *list[0].Status != status ||
			*list[0].OrderReference != `A<&>"é` || len(list[0].Parts) != 3 {
			t.Fatalf("step %d: read %+v", i, list)
		}
		for _, p := range list[0].Parts {
			if *p.Status != status || (p.DeliveryDate == nil) != (status == "New") || p.Quantity == nil ||
				p.RepairerPrice == nil {
				t.Fatalf("step %d: part %+v", i, p)
			}
		}
	}
	if _, err := v.AdvanceOrder(o.ID); !errors.Is(err, sandbox.ErrOrderEnded) {
		t.Errorf("advancing a delivered order: %v", err)
	}
}

func TestOrdersAreHostile(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	seen := map[string]int{}
	note := func(what string, is bool) {
		if is {
			seen[what]++
		}
	}
	missing := func(raw json.RawMessage, there bool) string {
		switch {
		case !there:
			return "absent"
		case string(raw) == "null", string(raw) == `"0001-01-01T00:00:00"`:
			return string(raw)
		}
		if date := strings.Trim(string(raw), `"`); !vendorTimes.MatchString(date) {
			t.Errorf("delivery date %s", raw)
		}
		return "date"
	}
	for range 200 {
		o := v.create("4711", sandbox.OrderOptions{})
		for {
			got := v.do("GET", api+"/partsorders/"+o.ID, token)
			if got.body != "["+string(o.JSON)+"]" {
				t.Fatalf("served %q\nmade   %q", got.body, o.JSON)
			}
			var list []wireOrder
			got.decode(t, &list)
			var loose []struct {
				Parts  []map[string]json.RawMessage
				Vendor json.RawMessage `json:"VendorRef"`
			}
			got.decode(t, &loose)
			var top []map[string]json.RawMessage
			got.decode(t, &top)
			if !slices.Contains(sandbox.Statuses, *list[0].Status) || *list[0].Status != o.Status {
				t.Fatalf("status %q of %+v", *list[0].Status, o)
			}
			raw, there := top[0]["DeliveryDate"]
			note("order date "+missing(raw, there), true)
			note("unknown order field", loose[0].Vendor != nil)
			note("many lines", strings.Contains(got.body, "\n"))
			note("HTML", bytes.Contains(top[0]["SupplierName"], []byte("& Sons <UK>")))
			note("unicode", bytes.Contains(top[0]["SupplierName"], []byte("部品 🚗")))
			note("escapes", bytes.Contains(top[0]["SupplierName"], []byte(`\u00fc`)))
			count := map[string]int{}
			for i, p := range list[0].Parts {
				raw, there := loose[0].Parts[i]["DeliveryDate"]
				note("part date "+missing(raw, there), true)
				note("unknown status", !slices.Contains(sandbox.Statuses, *p.Status))
				note("price 12.50", *p.RepairerPrice == "12.50")
				note("price 1234567.8900", *p.RepairerPrice == "1234567.8900")
				note("price 0.1", *p.InsurerPrice == "0.1")
				note("price 12.0", *p.InsurerPrice == "12.0")
				note("no maker's number", p.OEPartNumber == nil)
				note("unknown part field", loose[0].Parts[i]["Discount"] != nil)
				count[*p.OrderedPartNumber]++
				note("equal numbers", count[*p.OrderedPartNumber] == 2)
			}
			if o.Ended {
				note("ended "+o.Status, true)
				break
			}
			var err error
			if o, err = v.AdvanceOrder(o.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, what := range []string{"order date absent", "order date null", `order date "0001-01-01T00:00:00"`,
		"order date date",
		"part date absent", "part date null", `part date "0001-01-01T00:00:00"`, "part date date",
		"unknown order field", "unknown part field", "many lines", "HTML", "unicode", "escapes", "unknown status",
		"price 12.50", "price 1234567.8900", "price 0.1", "price 12.0", "no maker's number", "equal numbers",
		"ended Delivered", "ended Cancelled", "ended ReturnAccepted", "ended ReturnRejected"} {
		if seen[what] < 3 {
			t.Errorf("%s: seen %d times", what, seen[what])
		}
	}
}

// Every advance and every change changes something that is more than spelling.
func TestChangesAreChanges(t *testing.T) {
	t.Parallel()
	s := sandbox.New(sandbox.Config{Seed: 7})
	prices := func(o sandbox.Order) (out []float64) {
		var w wireOrder
		if err := json.Unmarshal(o.JSON, &w); err != nil {
			t.Fatal(err)
		}
		for _, p := range w.Parts {
			f, err := p.RepairerPrice.Float64()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, f)
		}
		return out
	}
	for range 100 {
		o, err := s.CreateOrder("1", sandbox.OrderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			before := prices(o)
			if o, err = s.ChangeOrder(o.ID, sandbox.Change{}); err != nil {
				t.Fatal(err)
			}
			if slices.Equal(before, prices(o)) {
				t.Fatalf("no price changed: %v in %s", before, o.JSON)
			}
		}
	}
}

func TestSetOrderIsServedByteForByte(t *testing.T) {
	t.Parallel()
	v := start(t, sandbox.Config{})
	token := v.site("4711")
	sub := v.subscribe(sandbox.Site, token)
	const id = "AAAAAAAA-0000-4000-8000-00000000000A"
	raw := "{ \"PartsOrderId\" : \"" + id + "\",\n \"Status\":\"Mislaid\", \"X\": 1.500e+3 }"
	o, err := v.SetOrder("4711", "", json.RawMessage(raw))
	if err != nil || o.ID != strings.ToLower(id) || o.Status != "Mislaid" {
		t.Fatalf("%+v %v", o, err)
	}
	if got := v.do("GET", api+"/partsorders/"+o.ID, token); got.body != "["+raw+"]" {
		t.Errorf("served %q", got.body)
	}
	if got := v.poll(sandbox.Site, token, sub); len(got) != 0 {
		t.Errorf("setting an order queued %+v", got)
	}
	if err := v.Touch(o.ID); err != nil {
		t.Fatal(err)
	}
	if got := v.poll(sandbox.Site, token, sub); len(got) != 1 || got[0].orderID(t) != o.ID {
		t.Errorf("touching queued %+v", got)
	}
	if _, err := v.AdvanceOrder(o.ID); !errors.Is(err, sandbox.ErrOrderRaw) {
		t.Errorf("advancing a raw order: %v", err)
	}
	if _, err := v.SetOrder("4711", o.ID, json.RawMessage("{broken")); err != nil {
		t.Errorf("anything goes if the id is given: %v", err)
	}
	if got := v.do("GET", api+"/partsorders/"+o.ID, token); got.body != "[{broken]" {
		t.Errorf("served %q", got.body)
	}
	if err := v.RemoveOrder(o.ID); err != nil {
		t.Fatal(err)
	}
	if got := v.do("GET", api+"/partsorders/"+o.ID, token); got.status != 404 {
		t.Errorf("a removed order: %d", got.status)
	}
	if _, err := v.Order(o.ID); !errors.Is(err, sandbox.ErrNoOrder) {
		t.Errorf("a removed order: %v", err)
	}
	if l := v.Ledger(); !l.Orders[0].Removed || len(l.Orders[0].States) != 2 {
		t.Errorf("ledger %+v", l)
	}
	if _, err := v.SetOrder("4711", o.ID, json.RawMessage(raw)); err != nil {
		t.Fatal(err)
	}
	if got := v.do("GET", api+"/partsorders/"+o.ID, token); got.status != 200 {
		t.Errorf("set again: %d", got.status)
	}
}

func TestOrdersThatCannotBe(t *testing.T) {
	t.Parallel()
	s := sandbox.New(sandbox.Config{})
	o, err := s.CreateOrder("1", sandbox.OrderOptions{ID: "AAAAAAAA-0000-4000-8000-00000000000A", Status: "Dispatched"})
	if err != nil || o.ID != "aaaaaaaa-0000-4000-8000-00000000000a" || o.Status != "Dispatched" {
		t.Fatalf("%+v %v", o, err)
	}
	for _, opts := range []sandbox.OrderOptions{{ID: "17"}, {Status: "Gone"}, {Parts: -1}, {Parts: 1001}, {ID: o.ID}} {
		if o, err := s.CreateOrder("1", opts); err == nil {
			t.Errorf("%+v made %+v", opts, o)
		}
	}
	if _, err := s.CreateOrder("", sandbox.OrderOptions{}); err == nil {
		t.Error("an order without a site was made")
	}
	if _, err := s.ChangeOrder(o.ID, sandbox.Change{Status: "Gone"}); err == nil {
		t.Error("an order went to a status that does not exist")
	}
	for _, err := range []error{s.Touch("x"), s.RemoveOrder("x")} {
		if !errors.Is(err, sandbox.ErrNoOrder) {
			t.Errorf("an order that is not there: %v", err)
		}
	}
}

func TestSeedRepeatsEverything(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 15, 9, 38, 44, 687150400, time.UTC)
	run := func(seed uint64, sitesFirst ...string) (tokens string, byID map[string]string) {
		s := sandbox.New(sandbox.Config{Seed: seed, Now: func() time.Time { return at }})
		g, err := s.Grant(sandbox.Consent{Sites: []string{"1"}})
		if err != nil {
			t.Fatal(err)
		}
		byID = map[string]string{}
		for range 20 {
			for _, site := range sitesFirst {
				o, err := s.CreateOrder(site, sandbox.OrderOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for !o.Ended {
					if o, err = s.AdvanceOrder(o.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		for _, o := range s.Ledger().Orders {
			for _, state := range o.States {
				byID[o.ID] += string(state.JSON)
			}
		}
		return g.RefreshToken, byID
	}
	token1, orders1 := run(1, "1", "2")
	token2, orders2 := run(1, "2", "1") // how sites interleave makes no difference
	if token1 != token2 || !reflect.DeepEqual(orders1, orders2) {
		t.Error("one seed gave two worlds")
	}
	if token3, orders3 := run(2, "1", "2"); token3 == token1 || reflect.DeepEqual(orders1, orders3) {
		t.Error("two seeds gave one world")
	}
}
