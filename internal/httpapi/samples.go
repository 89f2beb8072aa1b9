package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/audatex-relay/relay/api"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

// sampleSite and sampleOrder are the site and the order of samples. A sample's id begins with
// samplePrefix. Names have no underscore, so no real event's id does.
const (
	sampleSite   = "sample"
	sampleOrder  = "00000000-0000-4000-8000-000000000000"
	samplePrefix = "sample_"
)

// testCallback implements POST /v1/callbacks/{id}/test.
func (a *API) testCallback(ctx context.Context, c caller, id Id, body TestCallback) (reply, error) {
	cb, _, err := a.callback(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	if err := a.mayTest(cb); err != nil {
		return reply{}, err
	}
	if body.Type == "" {
		body.Type = relay.TypeOrderUpdated
	}
	ev, err := a.sample(string(body.Type), body.Data, time.Now().UTC())
	if err != nil {
		return reply{}, err
	}
	raw, err := relay.Encode(ev)
	if err != nil {
		return reply{}, err
	}
	var inspect sender.Inspection
	attempt, err := a.c.Dispatcher.Test(ctx, cb, ev, &inspect)
	if refused, ok := errors.AsType[*TestRefusedError](err); ok {
		return reply{}, &problem{kind: kindTooMany, detail: refused.Reason, retryAfter: max(refused.Again, time.Second)}
	}
	if err != nil {
		return reply{}, refuse("The sample could not be sent.", err)
	}
	return reply{body: testResult(attempt, inspect, raw)}, nil
}

func testResult(rec relay.AttemptRecord, inspect sender.Inspection, event []byte) TestResult {
	result := TestResult{
		Delivered: rec.Status >= 200 && rec.Status < 300, Outcome: rec.Outcome, Status: rec.Status,
		DurationMillis: rec.DurationMillis, Error: rec.Error, Excerpt: rec.Excerpt, Event: event,
		Phases: phases(rec.Phases), TokenMillis: float64(inspect.Token.Microseconds()) / 1000,
		ResponseHeaders: responseHeaders(rec.Headers),
	}
	if rec.Remote.IsValid() {
		result.RemoteAddress = rec.Remote.String()
	}
	if inspect.Method != "" {
		result.Request = TestRequest{Method: inspect.Method, Url: inspect.URL, Headers: map[string]string{}}
		for _, h := range inspect.Headers {
			result.Request.Headers[strings.ToLower(h.Name)] = h.Value
		}
	}
	for _, c := range inspect.Certificates {
		result.Certificates = append(result.Certificates, Certificate{
			Subject: c.Subject, Issuer: c.Issuer, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Names: c.Names,
		})
	}
	return result
}

// sample returns an event of a type that looks like a real one, with other data if some are given.
// Its id, subject, site and sequence are always the sample's: a receiver that stores the sequence
// of a made-up event could take real ones for repeats.
func (a *API) sample(typ string, data json.RawMessage, now time.Time) (relay.Event, error) {
	ev, err := a.sampleOf(typ, now)
	if err != nil {
		return ev, err
	}
	ev.ID, ev.Test = samplePrefix+ev.ID, true
	if data != nil {
		ev.Data = data
		err = a.checkEvent(ev)
	}
	return ev, err
}

// checkEvent checks an event whose data a caller has made.
func (a *API) checkEvent(ev relay.Event) error {
	raw, err := relay.Encode(ev)
	if err != nil {
		return err
	}
	value, err := readJSON(raw)
	if err != nil {
		return err
	}
	errs := a.contract.fieldErrors(a.contract.event.Validate(value))
	if kind, operational := strings.CutPrefix(ev.Type, relay.OperationalPrefix); operational && len(errs) == 0 {
		var data relay.Operational
		if err := json.Unmarshal(ev.Data, &data); err != nil || string(data.Kind) != kind {
			errs = append(errs, at("/data/kind", "must be %s, as type says", kind))
		}
	}
	if len(errs) > 0 {
		return invalid(errs...)
	}
	return nil
}

// sampleDetails returns the details of the documents' example of a kind.
func sampleDetails(kind string) (map[string]any, error) {
	var all map[string]map[string]any
	if err := json.Unmarshal(api.SampleDetails, &all); err != nil {
		return nil, fmt.Errorf("read the details of samples: %w", err)
	}
	details := all[relay.OperationalPrefix+kind]
	if details == nil {
		details = map[string]any{}
	}
	details["sample"] = true
	return details, nil
}

func (a *API) sampleOf(typ string, now time.Time) (relay.Event, error) {
	if kind, operational := strings.CutPrefix(typ, relay.OperationalPrefix); operational {
		details, err := sampleDetails(kind)
		if err != nil {
			return relay.Event{}, err
		}
		return relay.NewOperationalEvent(a.c.SchemaURL, sampleSite, sampleSite, now, relay.Operational{
			Kind: relay.Kind(kind), Message: "This is a sample; nothing has happened.", Details: details,
		})
	}
	const part = `{"OEPartNumber":"8K0 807 065","OrderedPartNumber":"8K0807065GRU","Quantity":1,"Status":"Confirmed",` +
		`"RepairerPrice":312.50,"InsurerPrice":298.00,"DeliveryDate":null}`
	data := relay.OrderData{
		Order: json.RawMessage(`{"AssessmentId":"00000000-0000-4000-8000-000000000001","SupplierName":"Sample Parts",` +
			`"PartsOrderId":"` + sampleOrder +
			`","OrderReference":"SAMPLE-1","Status":"Confirmed","DeliveryDate":null,` +
			`"Parts":[` + part + `]}`),
		ReadAt: now, Revision: 1, Origin: relay.OriginNotification,
		Notification: &relay.NotificationInfo{
			Topic: "PARTS.ORDER.CREATED", CreatedAt: now.Format(time.RFC3339Nano), SiteID: "0", ReceivedAt: now,
		},
	}
	if typ == relay.TypeOrderUpdated {
		before := "New"
		data.Revision, data.PreviousStatus, data.Notification.Topic = 2, &before, "PARTS.ORDER.UPDATED"
		data.Changes = []relay.Change{
			{Path: "/Status", From: json.RawMessage(`"New"`), To: json.RawMessage(`"Confirmed"`)}}
	}
	return relay.NewOrderEvent(a.c.SchemaURL, sampleSite, sampleOrder, typ, relay.NextSequence(now, 0), now, data)
}
