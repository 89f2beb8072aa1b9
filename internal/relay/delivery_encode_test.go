package relay_test

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

// text draws what a receiver may send: also quotes, control characters and bytes that are not UTF-8.
func text() *rapid.Generator[string] {
	return rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z0-9 .:<>&-]{0,12}`), rapid.String(),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "bytes")) }))
}

func moment() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		at := time.Unix(rapid.Int64Range(-100, 4e9).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		if rapid.Bool().Draw(t, "utc") {
			return at.UTC()
		}
		return at.In(time.FixedZone("", rapid.IntRange(-43200, 43200).Draw(t, "zone")/60*60))
	})
}

// draw sets every field of a struct, so that a new one cannot be left out.
func draw(t *rapid.T, v reflect.Value) {
	for i := range v.NumField() {
		field, name := v.Field(i), v.Type().Field(i).Name
		switch at := field.Addr().Interface().(type) {
		case *time.Time:
			*at = moment().Draw(t, name)
		case **time.Time:
			if rapid.Bool().Draw(t, name) {
				next := moment().Draw(t, name)
				*at = &next
			}
		case *netip.AddrPort:
			*at = rapid.SampledFrom([]netip.AddrPort{{}, netip.MustParseAddrPort("192.0.2.1:443"),
				netip.MustParseAddrPort("[2001:db8::1%eth0]:1")}).Draw(t, name)
		case *relay.Phases:
			if rapid.Bool().Draw(t, name) {
				draw(t, field)
			}
		case *bool:
			*at = rapid.Bool().Draw(t, name)
		default:
			switch field.Kind() {
			case reflect.String:
				field.SetString(text().Draw(t, name))
			case reflect.Int:
				field.SetInt(rapid.Int64().Draw(t, name))
			case reflect.Uint64:
				field.SetUint(rapid.Uint64Max(1<<63-1).Draw(t, name))
			case reflect.Float64:
				field.SetFloat(rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(-1e5, 1e5),
					rapid.Float64()).Draw(t, name))
			default:
				t.Fatalf("%s is of a kind that nothing is drawn for", name)
			}
		}
	}
}

func TestABatchOfAttemptsIsEncodedAsJSONIs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := relay.AttemptBatch{
			Callback: text().Draw(t, "callback"), Generation: "g", Previous: rapid.Uint64().Draw(t, "previous"),
			Records: make([]relay.AttemptRecord, rapid.IntRange(0, 3).Draw(t, "records")),
		}
		for i := range b.Records {
			draw(t, reflect.ValueOf(&b.Records[i]).Elem())
		}
		got, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		want, err := relay.Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}
