package cursor

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecodeDocument(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"v":1,"position":3}`: "",
		`{"v":1,"position":3,"done":[[4,4],[5,9]],"unknown":{"a":1},"epoch":7,"generation":"g","behind":true,` +
			`"resumedCount":2}`: "",
		`{"v":1,"position":3,"health":{"failures":4,"several":true,"open":true,` +
			`"failingSince":"2026-01-15T09:00:00+01:00"}}`: "",
		``:                                           "unexpected end",
		`{"v":2,"position":3}`:                       "version 2 is not 1",
		`{"position":3}`:                             "version 0 is not 1",
		`{"v":1,"position":-3}`:                      "cannot unmarshal",
		`{"v":1,"position":"3"}`:                     "cannot unmarshal",
		`{"v":1,"position":5,"done":[[5,9]]}`:        "position 5 is beyond done range [5,9]",
		`{"v":1,"position":5,"done":[[9,8]]}`:        "done range 0 [9,8] is the wrong way round",
		`{"v":1,"position":5,"done":[[8,9],[7,7]]}`:  "done range 1 [7,7] is not above",
		`{"v":1,"position":5,"done":[[8,9],[9,10]]}`: "done range 1 [9,10] is not above",
		`{"v":1,"position":2,"skipped":[{"seq":6,"order":"b"},{"seq":5,"order":"b"}]}`: "skipped 1 (5)",
		`{"v":1,"position":2,"skipped":[{"seq":0,"order":"b"}]}`:                       "skipped 0 (0)",
		`{"v":1,"health":{"failures":-1}}`:                                             "out of bounds",
		`{"v":1,"health":{"probeWaitMillis":-1}}`:                                      "out of bounds",
		`{"v":1,"resumed":"9999-12-31T23:59:59-23:00"}`:                                "time is out of bounds",
		`{"v":1,"done":[` + strings.Repeat("[1,1],", 4096) + `[2,2]]}`:                 "4097 done ranges",
	} {
		_, err := DecodeDocument([]byte(in))
		checkError(t, in, err, want)
	}
}

func TestDecodeLane(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"v":1,"order":"a","entries":[1,5],"openFrom":6,"new":[]}`:                  "",
		`{"v":1,"order":"a","openFrom":6}`:                                           "",
		`{"v":1,"order":"a"}`:                                                        "nothing waits",
		`{"v":3,"order":"a","entries":[1]}`:                                          "version 3",
		`{"v":1,"order":"a","entries":[0]}`:                                          "entry 0 (0) is not above",
		`{"v":1,"order":"a","entries":[5,5]}`:                                        "entry 1 (5) is not above",
		`{"v":1,"order":"a","entries":[5],"openFrom":5}`:                             "open from 5",
		`{"v":1,"order":"a","entries":[5],"attempts":-1}`:                            "out of bounds",
		`{"v":1,"order":"a","entries":[5],"waitMillis":99999999999999}`:              "out of bounds",
		`{"v":1,"order":"a","entries":[5],"next":"9999-01-01T00:00:00Z"}`:            "time is out of bounds",
		`{"v":1,"order":"a","entries":[` + strings.Repeat("1,", LaneEntries) + `1]}`: "101 entries",
	} {
		_, err := DecodeLane([]byte(in))
		checkError(t, in, err, want)
	}
	if _, err := Load(Policy{}, Document{V: 1},
		[]Lane{{V: 1, Order: "a", Entries: []uint64{1}}, {V: 1, Order: "a", Entries: []uint64{2}}}, t0); err == nil {
		t.Error("two lanes of one order were loaded")
	}
	if _, err := Load(Policy{}, Document{}, nil, t0); err == nil {
		t.Error("a document without version was loaded")
	}
}

func checkError(t *testing.T, in string, err error, want string) {
	t.Helper()
	if len(in) > 80 {
		in = in[:80] + "…"
	}
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", in, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: error %v, want %q", in, err, want)
	}
}

// FuzzLoad checks that every document that Load accepts can be used, and is stored again in a form
// that Load accepts.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"v":1,"position":3,"done":[[5,9],[11,11]],"skipped":[{"seq":6,"order":"b"},{"seq":15,"order":"a"}],`+
		`"health":{"failures":9,"several":true,"open":true,"nextProbe":"2026-01-15T09:00:00Z","probeWaitMillis":5000},`+
		`"resumed":"2026-01-15T09:00:00Z"}`),
		[]byte(`{"v":1,"order":"a","entries":[1,4,12],"openFrom":14,"attempts":3,"spent":true,`+
			`"next":"2026-01-15T10:00:00Z","waitMillis":5000}`), uint64(3))
	f.Add([]byte(`{"v":1,"position":18446744073709551615}`),
		[]byte(`{"v":1,"entries":[18446744073709551615]}`), uint64(0))
	f.Fuzz(func(t *testing.T, doc, lane []byte, step uint64) {
		d, err := DecodeDocument(doc)
		if err != nil {
			return
		}
		same(t, d, DecodeDocument)
		var lanes []Lane
		if l, err := DecodeLane(lane); err == nil {
			same(t, l, DecodeLane)
			lanes = append(lanes, l)
		}
		p := Policy{Concurrency: 2, CircuitFailures: 2, Schedule: []time.Duration{time.Second}}
		c, err := Load(p, d, lanes, t0)
		if err != nil {
			t.Fatal(err)
		}
		now, seq := t0, c.ReadFrom()
		for i := range 20 {
			c.Offer(Entry{seq, string(rune('a' + i%3))})
			seq += step%5 + 1
			if b, ok := c.Take(now, 1+i%3); ok {
				switch (step >> i) % 3 {
				case 0:
					c.Succeed(b, now)
				case 1:
					if c.Fail(b, now, Failure{}).Outcome == Exhausted {
						c.Settle(b.Order, b.Seqs...)
					}
				}
			}
			for _, r := range c.Refills() {
				c.Refill(r, []uint64{r.From}, r.Through)
			}
			now = now.Add(time.Minute)
		}
		c.ExpireBelow(step)
		ch := c.Changes()
		for _, l := range ch.Lanes {
			same(t, l, DecodeLane)
		}
		same(t, c.Document(), DecodeDocument)
		c.Stored(ch)
		c.Clamp(seq / 2)
		same(t, c.Document(), DecodeDocument)
	})
}

// same checks that what is stored comes back as it was.
func same[T any](t *testing.T, v T, decode func([]byte) (T, error)) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	got, err := decode(b)
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	again, err := json.Marshal(got)
	if err != nil || string(again) != string(b) {
		t.Fatalf("stored %s, came back as %s (%v, equal: %v)", b, again, err, reflect.DeepEqual(v, got))
	}
}
