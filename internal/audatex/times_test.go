package audatex

import (
	"encoding/json"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	london, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		in   string
		loc  *time.Location
		want string // "" for none
	}{
		{"2016-01-15T09:38:44.6871504Z", nil, "2016-01-15T09:38:44.6871504Z"},
		{"2016-01-15T09:38:44.6871504", nil, "2016-01-15T09:38:44.6871504Z"},
		{"2016-07-15T09:38:44.6871504", london, "2016-07-15T08:38:44.6871504Z"},
		{"2016-07-15T09:38:44.6871504Z", london, "2016-07-15T09:38:44.6871504Z"},
		{"2016-07-15T09:38:44+02:00", london, "2016-07-15T07:38:44Z"},
		{"2016-01-15T09:38:44", nil, "2016-01-15T09:38:44Z"},
		{"2016-01-15T09:38:44.123456789123Z", nil, "2016-01-15T09:38:44.123456789Z"},
		{"2016-01-15T09:38:44.123456789987", nil, "2016-01-15T09:38:44.123456789Z"},
		{" 2016-01-15t09:38:44z ", nil, "2016-01-15T09:38:44Z"},
		{"2016-01-15 09:38:44", nil, "2016-01-15T09:38:44Z"},
		{"0001-01-01T00:00:00", nil, ""},
		{"0001-01-01T00:00:00", london, ""},
		{"0001-01-01T00:00:00.0000000Z", nil, ""},
		{"0001-01-01T00:00:00+14:00", nil, ""},
		{"9999-12-31T23:59:59.9999999", nil, ""},
		{"9999-12-31T23:59:59-14:00", nil, ""},
		{"", nil, ""},
		{"2016-01-15", nil, ""},
		{"2016-13-15T09:38:44Z", nil, ""},
		{"2016-02-30T09:38:44Z", nil, ""},
		{"2016-01-15T09:38:44Zulu", nil, ""},
		{"yesterday at ten o'clock", nil, ""},
	} {
		got, ok := ParseTime(tt.in, tt.loc)
		if ok != (tt.want != "") || (ok && got.Format(time.RFC3339Nano) != tt.want) {
			t.Errorf("%q: %s, %v, want %q", tt.in, got.Format(time.RFC3339Nano), ok, tt.want)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{
		"", "2016-01-15T09:38:44.6871504Z", "2016-01-15T09:38:44.6871504", "0001-01-01T00:00:00",
		"2016-07-15T09:38:44+02:00", "9999-12-31T23:59:59-14:00", "2016-01-15 09:38:44,5z",
	} {
		f.Add(s, 0)
		f.Add(s, -36000)
	}
	f.Fuzz(func(t *testing.T, s string, offset int) {
		got, ok := ParseTime(s, time.FixedZone("", offset%86400))
		if !ok {
			if !got.IsZero() {
				t.Fatalf("%q: none, yet %s", s, got)
			}
			return
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		var back time.Time
		if err := json.Unmarshal(b, &back); err != nil || !back.Equal(got) || got.Location() != time.UTC {
			t.Fatalf("%q: %s, %s, %v", s, got, back, err)
		}
	})
}
