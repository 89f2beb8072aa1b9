package httpapi

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signature"
	"github.com/audatex-relay/relay/internal/store"
)

const secretText = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

func TestCallbackLife(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha", "beta")
	f.publish("alpha", orderA)

	var made Callback
	got := a.post("/v1/callbacks", map[string]any{
		"url": "https://bms.example/hook", "sites": []string{"alpha"}, "types": []string{"audatex.parts.*"},
		"orders":  []string{strings.ToUpper(orderA)},
		"headers": map[string]string{"X-Api-Key": "header-value-secret"},
		"auth":    map[string]string{"type": "bearer", "token": "bearer-token-secret"},
		"mode":    "latest", "concurrency": 2, "ratePerSecond": 1.5, "timeoutSeconds": 7,
	}).want(201).into(&made)
	if got.header.Get("Location") != "/v1/callbacks/"+made.Id || !strings.HasPrefix(made.Secret, "whsec_") ||
		made.Client != "client-a" || made.State != CallbackStateActive {
		t.Errorf("made: %s, %s", got.header, got.body)
	}
	stored, _, err := f.store.Callbacks.Get(t.Context(), made.Id)
	if err != nil {
		t.Fatal(err)
	}
	if stored.StartSeq != 1 || stored.Filter.Orders[0] != orderA ||
		stored.Secrets.Headers["X-Api-Key"] != "header-value-secret" ||
		stored.Secrets.Auth.Token != "bearer-token-secret" ||
		signingAt(stored, time.Now())[0] != made.Secret {
		t.Errorf("stored: %+v", stored)
	}

	// A patch merges into what only the store knows, and takes the version.
	read := a.get("/v1/callbacks/" + made.Id).want(200)
	tag := read.header.Get("ETag")
	a.patch("/v1/callbacks/"+made.Id,
		map[string]any{"headers": map[string]any{"X-Other": "1"}, "auth": nil, "sites": []string{"alpha", "beta"},
			"mode": nil}, "If-Match", tag).want(200)
	a.patch("/v1/callbacks/"+made.Id, map[string]any{"paused": true}, "If-Match",
		tag).want(412).problem("precondition-failed")
	a.delete("/v1/callbacks/"+made.Id, "If-Match", tag).want(412)
	a.put("/v1/callbacks/"+made.Id, map[string]any{"url": "https://bms.example/"}, "If-Match", tag).want(412)
	a.put("/v1/callbacks/free", map[string]any{"url": "https://bms.example/"}, "If-Match", "*").want(412)
	if stored, _, err = f.store.Callbacks.Get(t.Context(), made.Id); err != nil {
		t.Fatal(err)
	}
	if h := stored.Secrets.Headers; h["X-Api-Key"] != "header-value-secret" || h["X-Other"] != "1" ||
		stored.Secrets.Auth != nil || stored.Mode != relay.ModeEvery || stored.Concurrency != 2 {
		t.Errorf("patched: %+v", stored)
	}
	a.patch("/v1/callbacks/"+made.Id, map[string]any{"headers": map[string]any{"X-Other": nil}}, "Content-Type",
		"application/json").want(200)
	a.patch("/v1/callbacks/"+made.Id, map[string]any{"concurrency": 0}).want(422).problem("invalid-body",
		"/concurrency")
	a.patch("/v1/callbacks/"+made.Id, map[string]any{"colour": nil}).want(422).problem("invalid-body", "/colour")
	a.patch("/v1/callbacks/"+made.Id, map[string]any{"url": "ftp://x"}).want(422).problem("invalid-body", "/url")

	// A PUT of everything as it was, such as a receiver makes at each start, makes nothing due. A new secret does.
	count := func() int {
		cb, _, err := f.store.Callbacks.Get(t.Context(), made.Id)
		if err != nil {
			t.Fatal(err)
		}
		return cb.Resumed
	}
	full := map[string]any{
		"url": stored.Secrets.URL, "headers": map[string]any{"X-Api-Key": "header-value-secret"}, "concurrency": 2,
		"secret": stored.Secrets.Present(),
	}
	before := count()
	a.put("/v1/callbacks/"+made.Id, full).want(200)
	full["secret"] = signature.SecretOf([]byte(strings.Repeat("k", signature.NewSecretBytes))).Reveal()
	if same := count(); same != before {
		t.Errorf("a PUT that changes nothing counts: %d after %d", same, before)
	}
	a.put("/v1/callbacks/"+made.Id, full).want(200)
	if after := count(); after != before+1 {
		t.Errorf("a new secret does not count: %d after %d", after, before)
	}

	// Resuming ends a disablement and counts. Both changes of headers and auth counted as well: what waited was made
	// due.
	_, _, err = change(t.Context(), f.store.Callbacks, made.Id, "", func(cb relay.Callback) (relay.Callback, error) {
		cb.Disabled = &relay.Disabled{Reason: "gone", At: time.Now().UTC()}
		return cb, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var view Callback
	a.get("/v1/callbacks/" + made.Id).into(&view)
	if view.State != CallbackStateDisabled || view.DisabledReason != CallbackDisabledReasonGone {
		t.Errorf("disabled: %+v", view)
	}
	f.parts.set(func() {
		f.parts.statuses[made.Id] = Status{Health: CallbackHealthOpen, Backlog: 0, LagSeconds: 90}
	})
	view = Callback{}
	a.post("/v1/callbacks/"+made.Id+"/resume", nil).want(200).into(&view)
	if view.State != CallbackStateActive || view.Health != CallbackHealthOpen || view.Backlog == nil ||
		*view.Backlog != 0 || *view.LagSeconds != 90 {
		t.Errorf("resumed: %+v", view)
	}
	if stored, _, err = f.store.Callbacks.Get(t.Context(), made.Id); err != nil || stored.Resumed != 4 ||
		stored.Disabled != nil {
		t.Errorf("resumed: %+v, %v", stored, err)
	}
	a.delete("/v1/callbacks/" + made.Id).want(204)
	a.get("/v1/callbacks/" + made.Id).want(404)
	a.delete("/v1/callbacks/" + made.Id).want(404)
}

func TestPutCallback(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	f.publish("alpha", orderA)
	f.publish("alpha", orderB)
	settings := map[string]any{"url": "https://bms.example/", "secret": secretText, "startFrom": "earliest"}
	var made, again Callback
	first := a.put("/v1/callbacks/mine", settings).want(201).into(&made)
	a.put("/v1/callbacks/mine", settings, "If-Match", first.header.Get("ETag")).want(200).into(&again)
	if made.Secret != secretText || again.Secret != "" {
		t.Errorf("the secret is shown once: %q, %q", made.Secret, again.Secret)
	}
	stored, _, err := f.store.Callbacks.Get(t.Context(), "mine")
	if err != nil || stored.StartSeq != 0 || len(stored.Secrets.Signing) != 1 {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	settings["startFrom"] = "now"
	a.put("/v1/callbacks/mine", settings).want(422).problem("invalid-body", "/startFrom")

	second, err := f.store.Events.Get(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	a.put("/v1/callbacks/since",
		map[string]any{"url": "https://bms.example/", "startFrom": second.Time.Format(time.RFC3339Nano)}).want(201)
	if stored, _, err = f.store.Callbacks.Get(t.Context(), "since"); err != nil || stored.StartSeq != 1 {
		t.Errorf("a callback from the second event's time on starts after %d, %v", stored.StartSeq, err)
	}
	a.put("/v1/callbacks/old",
		map[string]any{"url": "https://bms.example/", "startFrom": "1600-01-01T00:00:00Z"}).want(201)
	if stored, _, err = f.store.Callbacks.Get(t.Context(), "old"); err != nil || stored.StartSeq != 0 {
		t.Errorf("a callback from long ago on starts after %d, %v", stored.StartSeq, err)
	}
	for _, from := range []string{"yesterday", time.Now().Add(time.Hour).Format(time.RFC3339)} {
		a.put("/v1/callbacks/other",
			map[string]any{"url": "https://bms.example/", "startFrom": from}).want(422).problem("invalid-body",
			"/startFrom")
	}

	// A client that may see less than before can still pause a callback that names a site it has
	// lost. It cannot name that site again.
	a.put("/v1/callbacks/lost", map[string]any{"url": "https://bms.example/", "sites": []string{"alpha"}}).want(201)
	f.admin().put("/v1/clients/client-a", map[string]any{"sites": []string{"beta"}}).want(200)
	a.patch("/v1/callbacks/lost", map[string]any{"paused": true}).want(200)
	a.patch("/v1/callbacks/mine", map[string]any{"sites": []string{"beta", "alpha"}}).want(422).problem("invalid-body",
		"/sites/1")
	a.delete("/v1/callbacks/lost").want(204)

	// The admin token: for the client default, which it makes; for a client it names; never for one
	// that is not there.
	var admins Callback
	f.admin().post("/v1/callbacks",
		map[string]any{"url": "https://bms.example/", "sites": []string{"any-site"}}).want(201).into(&admins)
	if admins.Client != relay.DefaultClient {
		t.Errorf("the admin's callback is %s's", admins.Client)
	}
	f.admin().put("/v1/callbacks/for-a?client=client-a", map[string]any{"url": "https://bms.example/"}).want(201)
	a.get("/v1/callbacks/for-a").want(200)
	f.admin().put("/v1/callbacks/for-a?client=default",
		map[string]any{"url": "https://bms.example/"}).want(409).problem("id-taken")
	f.admin().post("/v1/callbacks?client=nobody",
		map[string]any{"url": "https://bms.example/"}).want(400).problem("invalid-parameter", "client")
	f.admin().delete("/v1/clients/client-a").want(409).problem("client-in-use")

	// Pages.
	var ids []string
	for after := ""; ; {
		var list CallbackList
		f.admin().get("/v1/callbacks?client=client-a&limit=2" + after).want(200).into(&list)
		for _, cb := range list.Items {
			ids = append(ids, cb.Id)
		}
		if list.Next == "" {
			break
		}
		after = "&after=" + list.Next
	}
	if strings.Join(ids, " ") != "for-a mine old since" {
		t.Errorf("pages: %v", ids)
	}
	f.admin().get("/v1/callbacks?after="+position('e', 1)).want(400).problem("invalid-parameter", "after")
}

// What a receiver gets as a sample is signed, is valid, and cannot be taken for a real event.
func TestSampleTakesTheWayOfDeliveries(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	verifier, err := reference.NewWebhook(secretText)
	if err != nil {
		t.Fatal(err)
	}
	status := make(chan int, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verifier.Verify(body, r.Header); err != nil {
			t.Errorf("the sample's signature: %v", err)
		}
		if r.Header.Get("X-Own") != "1" || !strings.HasPrefix(r.Header.Get("webhook-id"), samplePrefix) {
			t.Errorf("headers: %v", r.Header)
		}
		w.WriteHeader(<-status)
	}))
	defer receiver.Close()
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/cb",
		map[string]any{"url": receiver.URL, "secret": secretText, "headers": map[string]string{"X-Own": "1"}}).want(201)
	for _, typ := range spec().Components.Schemas["TestCallback"].Value.Properties["type"].Value.Enum {
		status <- 204
		var result TestResult
		a.post("/v1/callbacks/cb/test", map[string]any{"type": typ}).want(200).into(&result)
		if !result.Delivered || result.Status != 204 {
			t.Errorf("%s: %+v", typ, result)
		}
	}
	status <- 500
	var result TestResult
	a.post("/v1/callbacks/cb/test", nil).want(200).into(&result)
	if result.Delivered || result.Status != 500 {
		t.Errorf("refused: %+v", result)
	}
	a.post("/v1/callbacks/cb/test",
		map[string]any{"type": "audatex.parts.order.deleted"}).want(422).problem("invalid-body", "/type")
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	a.put("/v1/callbacks/cb", map[string]any{
		"url": "https://bms.example/hook?token=very-secret", "startFrom": "earliest",
		"headers": map[string]string{"X-Key": "very-secret"},
		"auth":    map[string]string{"type": "bearer", "token": "very-secret"},
	}).want(201)
	cb, _, err := f.store.Callbacks.Get(t.Context(), "cb")
	if err != nil {
		t.Fatal(err)
	}
	one, two := f.publish("alpha", orderA), f.publish("alpha", orderB)
	three := f.publish("alpha", "cccccccc-6a64-4a2c-9d55-0a3f3a9f7b11")
	now := time.Now().UTC().Truncate(time.Millisecond)
	due := now.Add(time.Hour)
	rec := func(ev relay.Event, seq uint64, number, status int, closing relay.DeliveryStatus) relay.AttemptRecord {
		r := relay.AttemptRecord{Event: ev.ID, Seq: seq, Order: ev.Subject, Number: number, At: now,
			DurationMillis: 2.5, Outcome: "refused", Status: status, Closing: closing, Bytes: 300,
			Phases: relay.Phases{Connect: 0.5, FirstByte: 1.25},
			Remote: netip.MustParseAddrPort("203.0.113.7:443"), Headers: "server: nginx\nx-request-id: 4bf92f35\n"}
		if closing == "" {
			r.NextAttemptAt = &due
		}
		return r
	}
	batches := [][]relay.AttemptRecord{
		{rec(one, 1, 1, 500, ""), rec(two, 2, 1, 500, "")},
		{rec(two, 2, 2, 500, ""), rec(one, 1, 2, 200, relay.DeliveryDelivered)},
		{{Event: "gone", Seq: 9, Order: "gone", At: now, Closing: relay.DeliveryExpired, Reason: "aged out"}},
	}
	var previous uint64
	for _, records := range batches {
		result := f.store.Attempts.AppendAll(t.Context(),
			[]relay.AttemptBatch{{Callback: "cb", Generation: cb.Generation, Previous: previous, Records: records}})
		if result[0].Err != nil {
			t.Fatal(result[0].Err)
		}
		previous = result[0].Seq
	}
	lane := cursor.Lane{V: 1, Order: orderB, Entries: []uint64{2}, Attempts: 2, Generation: cb.Generation}
	if _, err := f.store.Lanes.Create(t.Context(), store.CallbackCursor("cb")+"."+orderB, lane); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []string{"1", "2", "50"} {
		var got []string
		for after := ""; ; {
			var list DeliveryList
			a.get("/v1/callbacks/cb/deliveries?limit=" + limit + after).want(200).into(&list)
			for _, d := range list.Items {
				got = append(got, d.Event+" "+string(d.Status))
			}
			if list.Next == "" {
				break
			}
			after = "&after=" + list.Next
		}
		want := []string{"gone expired", one.ID + " delivered", two.ID + " retrying"}
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("limit %s: %v, want %v", limit, got, want)
		}
	}
	var list DeliveryList
	a.get("/v1/callbacks/cb/deliveries?status=failed,expired").want(200).into(&list)
	if len(list.Items) != 1 || list.Items[0].Reason != "aged out" {
		t.Errorf("expired ones: %+v", list.Items)
	}
	var d Delivery
	a.get("/v1/callbacks/cb/deliveries/" + one.ID).want(200).into(&d)
	if d.Status != DeliveryStatusDelivered || len(d.Attempts) != 2 || d.Attempts[0].Status != 500 ||
		d.Attempts[1].Status != 200 || !d.NextAttemptAt.IsZero() {
		t.Errorf("delivered: %+v", d)
	}
	shown := d.Attempts[1]
	if shown.RemoteAddress != "203.0.113.7:443" ||
		shown.Phases != (Phases{ConnectMillis: 0.5, FirstByteMillis: 1.25}) ||
		!maps.Equal(shown.ResponseHeaders, map[string]string{"server": "nginx", "x-request-id": "4bf92f35"}) ||
		!maps.Equal(shown.RequestHeaders, map[string]string{
			"host": "bms.example", "user-agent": "audatex-relay/test", "content-type": "application/json",
			"content-length": "300", "webhook-id": one.ID, "webhook-timestamp": strconv.FormatInt(now.Unix(), 10),
			"webhook-signature": "v1,[redacted]", "authorization": "[redacted]", "x-key": "[redacted]",
		}) {
		t.Errorf("the attempt: %+v", shown)
	}
	a.get("/v1/callbacks/cb/deliveries/" + two.ID).want(200).into(&d)
	if d.Status != DeliveryStatusRetrying || !d.NextAttemptAt.Equal(due) {
		t.Errorf("retrying: %+v", d)
	}
	d = Delivery{}
	a.get("/v1/callbacks/cb/deliveries/" + three.ID).want(200).into(&d)
	if d.Status != DeliveryStatusPending || len(d.Attempts) != 0 {
		t.Errorf("pending: %+v", d)
	}
	elsewhere := f.publish("beta", orderA)
	a.get("/v1/callbacks/cb/deliveries/" + elsewhere.ID).want(404)

	// A 410 disables the callback: the delivery waits for it to be resumed, in no lane, and is
	// listed all the same. Those that were answered so before an earlier resume have gone on since.
	gone := rec(three, 3, 1, http.StatusGone, "")
	gone.NextAttemptAt = nil
	before := gone
	before.Order, before.Event, before.Seq, before.At = "before", "before", 4, now.Add(-time.Minute)
	result := f.store.Attempts.AppendAll(t.Context(),
		[]relay.AttemptBatch{{Callback: "cb", Generation: cb.Generation, Previous: previous,
			Records: []relay.AttemptRecord{before, gone}}})
	if result[0].Err != nil {
		t.Fatal(result[0].Err)
	}
	a.get("/v1/callbacks/cb/deliveries?status=retrying").want(200).into(&list)
	if len(list.Items) != 1 || list.Items[0].Event != two.ID {
		t.Errorf("not disabled: %+v", list.Items)
	}
	_, _, err = change(t.Context(), f.store.Callbacks, "cb", "", func(cb relay.Callback) (relay.Callback, error) {
		cb.Disabled = &relay.Disabled{Reason: "gone", At: now.Add(3 * time.Millisecond)}
		return cb, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.get("/v1/callbacks/cb/deliveries?status=retrying").want(200).into(&list)
	if len(list.Items) != 2 || list.Items[0].Event != three.ID || list.Items[1].Event != two.ID {
		t.Errorf("disabled: %+v", list.Items)
	}
	a.get("/v1/callbacks/cb/deliveries/alpha-" + orderA + "-1").want(404)
}

// No response to a read, no line of the log and no problem holds a secret.
func TestSecretsAreNeverTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	secrets := []string{"header-value-secret", "bearer-token-secret", secretText, "refresh-token-secret", adminToken,
		a.token, strings.Split(a.token, "_")[2]}
	settings := map[string]any{
		"url": "https://bms.example/", "secret": secretText,
		"headers": map[string]string{"X-Key": "header-value-secret"},
		"auth":    map[string]string{"type": "bearer", "token": "bearer-token-secret"},
	}
	a.put("/v1/callbacks/cb", settings).want(201)
	f.admin().put("/v1/connections/con",
		map[string]any{"level": "site", "site": "alpha", "refreshToken": "refresh-token-secret"}).want(201)
	answers := []answer{
		a.put("/v1/callbacks/cb", settings), a.get("/v1/callbacks/cb"), a.get("/v1/callbacks"),
		a.patch("/v1/callbacks/cb", map[string]any{"paused": true}),
		a.post("/v1/callbacks/cb/resume", nil), a.post("/v1/callbacks/cb/test", nil),
		a.get("/v1/callbacks/cb/deliveries"), f.admin().get("/v1/connections/con"), f.admin().get("/v1/connections"),
		f.admin().get("/v1/clients/client-a/keys"),
		f.admin().get("/v1/clients/client-a"),
		f.admin().patch("/v1/connections/con", map[string]any{"refreshToken": "refresh-token-secret"}),
		// Refused for what stands beside, or in place of, a secret.
		a.put("/v1/callbacks/cb", map[string]any{"url": "https://bms.example/", "secret": "whsec_bearer-token-secret"}),
		a.put("/v1/callbacks/cb",
			map[string]any{"url": "https://bms.example/",
				"auth": map[string]any{"type": "bearer-token-secret", "token": 5}}),
		a.put("/v1/callbacks/cb",
			map[string]any{"url": "https://bms.example/",
				"headers": map[string]string{"Host": "header-value-secret", "X": "header-value-secret\n"}}),
		a.put("/v1/callbacks/cb", `{"url":"https://bms.example/","secret":"`+secretText+`" oops`),
		a.put("/v1/callbacks/cb", map[string]any{"url": "https://user:bearer-token-secret@bms.example/"}),
		f.admin().put("/v1/connections/con", map[string]any{"level": "refresh-token-secret"}),
	}
	for _, got := range answers {
		for _, secret := range secrets {
			if strings.Contains(string(got.body), secret) {
				t.Errorf("%s (%d) tells a secret: %s", got.what, got.status, got.body)
			}
		}
	}
	for _, secret := range secrets {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log holds the secret %q", secret)
		}
	}
	if !strings.Contains(f.log.String(), strings.Split(a.token, "_")[1]) {
		t.Error("the log names no key id")
	}
}

// The whole URL is for those who may change it, and only where they look at one callback.
func TestCallbackURLIsShownRedacted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	reader := f.key("client-a", relay.RoleRead)
	const whole, shown = "https://bms.example:8443/hooks/path-token?site=alpha&key=query-token",
		"https://bms.example:8443/hooks/[redacted]?[redacted]"
	a.put("/v1/callbacks/cb", map[string]any{"url": whole}).want(201).url(whole)
	for what, got := range map[string]answer{
		"read by its client": a.get("/v1/callbacks/cb"), "read by the admin": f.admin().get("/v1/callbacks/cb"),
		"replaced": a.put("/v1/callbacks/cb", map[string]any{"url": whole}),
		"changed":  a.patch("/v1/callbacks/cb", map[string]any{"paused": true}),
		"resumed":  a.post("/v1/callbacks/cb/resume", nil),
	} {
		t.Log(what)
		got.want(200).url(whole)
	}
	reader.get("/v1/callbacks/cb").want(200).url(shown)
	for _, who := range []session{a, reader, f.admin()} {
		var list CallbackList
		who.get("/v1/callbacks").want(200).into(&list)
		if len(list.Items) != 1 || list.Items[0].Url != shown {
			t.Errorf("listed: %+v", list.Items)
		}
	}
	if a.get("/v1/callbacks/cb").header.Get("ETag") != reader.get("/v1/callbacks/cb").header.Get("ETag") {
		t.Error("a reader sees another version")
	}

	// What was read redacted destroys nothing when it is written back.
	for _, redacted := range []string{shown, "https://bms.example/%5Bredacted%5D",
		"https://bms.example/x?%5bREDACTED%5d",
		"[redacted]"} {
		for _, got := range []answer{
			a.put("/v1/callbacks/cb", map[string]any{"url": redacted}),
			a.put("/v1/callbacks/new", map[string]any{"url": redacted}),
			a.patch("/v1/callbacks/cb", map[string]any{"url": redacted}),
			a.post("/v1/callbacks", map[string]any{"url": redacted}),
		} {
			got.want(422).problem("invalid-body", "/url")
			if !strings.Contains(string(got.body), "send the whole URL") {
				t.Errorf("%s", got.body)
			}
		}
	}
	a.patch("/v1/callbacks/cb", map[string]any{"description": "other"}).want(200).url(whole)
	a.get("/v1/callbacks/new").want(404)

	// An event about a callback, and the log, show nothing of it.
	f.operational(relay.NoSite, relay.KindCallbackDisabled, "cb")
	for _, text := range []string{string(a.get("/v1/events?types=audatex.relay.*").want(200).body), f.log.String()} {
		if strings.Contains(text, "path-token") || strings.Contains(text, "query-token") {
			t.Errorf("a token is told: %s", text)
		}
	}
}

// An event about a callback is never for that callback, whatever its filter is.
func TestNoEventIsForTheCallbackThatItIsAbout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "*")
	for _, id := range []string{"about", "other"} {
		a.put("/v1/callbacks/"+id,
			map[string]any{"url": "https://bms.example/", "types": []string{"audatex.relay.*"}}).want(201)
	}
	ev := f.operational(relay.NoSite, relay.KindCallbackDisabled, "about")
	a.get("/v1/callbacks/about/deliveries/" + ev.ID).want(404)
	a.post("/v1/callbacks/about/deliveries/"+ev.ID+"/retry", nil).want(404).problem("not-found")
	a.post("/v1/callbacks/other/deliveries/"+ev.ID+"/retry", nil).want(202)
}

// url checks the URL of the callback that was returned.
func (a answer) url(want string) {
	a.t.Helper()
	var cb Callback
	if a.into(&cb); cb.Url != want {
		a.t.Errorf("%s: the URL is %s, want %s", a.what, cb.Url, want)
	}
}
