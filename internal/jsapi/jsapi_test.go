package jsapi_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
	"github.com/audatex-relay/relay/internal/natstest"
)

func TestGetReadsWhatTheStreamHas(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(),
		jetstream.StreamConfig{Name: "s", Subjects: []string{"s.*"}}); err != nil {
		t.Fatal(err)
	}
	for i, subject := range []string{"s.a", "s.b", "s.a"} {
		m := nats.NewMsg(subject)
		m.Header.Set("Number", string(rune('1'+i)))
		m.Data = []byte(`{"error":"not the server's"}`)
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range []struct {
		which jsapi.Selection
		want  uint64
	}{
		{jsapi.Selection{Last: "s.a"}, 3}, {jsapi.Selection{Last: ">"}, 3}, {jsapi.Selection{Next: "s.a", Seq: 2}, 3},
		{jsapi.Selection{Next: "s.b", Since: &time.Time{}}, 2}, {jsapi.Selection{Seq: 1}, 1},
	} {
		m, err := jsapi.Get(ctx, js, "s", c.which)
		if err != nil || m.Sequence != c.want || m.Header.Get("Number") != string(rune('0'+c.want)) ||
			len(m.Data) == 0 || m.Time.IsZero() {
			t.Errorf("%+v: %+v, %v", c.which, m, err)
		}
	}
	if _, err := jsapi.Get(ctx, js, "s",
		jsapi.Selection{Last: "s.c"}); jsapi.Code(err) != jetstream.JSErrCodeMessageNotFound {
		t.Errorf("a message that is not there: %v", err)
	}
	if _, err := jsapi.Get(ctx, js, "none",
		jsapi.Selection{Seq: 1}); jsapi.Code(err) != jetstream.JSErrCodeStreamNotFound {
		t.Errorf("a stream that is not there: %v", err)
	}
}

func TestThePrefixOfTheAPIIsHonoured(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t)
	_, err := nc.Subscribe("mine.API.>", func(m *nats.Msg) { _ = m.Respond([]byte(`{"subject":"` + m.Subject + `"}`)) })
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"mine.API", "mine.API."} {
		js, err := jetstream.NewWithAPIPrefix(nc, prefix)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var answer struct {
			Subject string `json:"subject"`
		}
		if err := jsapi.Call(ctx, js, "STREAM.INFO.s", nil, &answer); err != nil ||
			answer.Subject != "mine.API.STREAM.INFO.s" {
			t.Errorf("with %s: asked at %q, %v", prefix, answer.Subject, err)
		}
	}
}

// A response that is too large for one comes in several.
func TestLastOfFindsAllOfWhatIsLarge(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(),
		jetstream.StreamConfig{Name: "s", Subjects: []string{"s.*"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	large, want := make([]byte, 900<<10), map[string]uint64{}
	for i := range uint64(12) {
		subject := fmt.Sprint("s.", i%6)
		if _, err := js.Publish(t.Context(), subject, large); err != nil {
			t.Fatal(err)
		}
		want[subject] = i + 1
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := map[string]uint64{}
	err = jsapi.LastOf(ctx, js, "s", []string{"s.>"}, 0, func(seq uint64, subject string, at time.Time, data []byte) {
		if got[subject] = seq; len(data) != len(large) || time.Since(at).Abs() > time.Hour {
			t.Errorf("%s has %d bytes, of %s", subject, len(data), at)
		}
	})
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

func TestLastOfReportsWhatItCannotFindInOne(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(),
		jetstream.StreamConfig{Name: "s", Subjects: []string{"s.*"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	for i := range jsapi.MaxLastOf + 1 {
		if i == jsapi.MaxLastOf {
			found := 0
			if err := jsapi.LastOf(t.Context(), js, "s", []string{"s.>"}, 0,
				func(uint64, string, time.Time, []byte) { found++ }); err != nil || found != i {
				t.Errorf("found %d of %d: %v", found, i, err)
			}
		}
		if _, err := js.Publish(t.Context(), fmt.Sprint("s.", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := jsapi.LastOf(t.Context(), js, "s", []string{"s.>"}, 0, nil); !errors.Is(err, jsapi.ErrTooMany) {
		t.Errorf("one more than may be found: %v", err)
	}
}
