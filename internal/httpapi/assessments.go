package httpapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/store"
)

// findAssessment implements GET /v1/assessments/{originator}/{number}.
func (a *API) findAssessment(
	ctx context.Context, c caller, originator, number string, params FindAssessmentParams,
) (reply, error) {
	connection, _, err := a.c.Store.Connections.Get(ctx, params.Connection)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return reply{}, err
	}
	visible := err == nil
	for _, site := range connection.SiteNames() {
		// All of them, because the vendor does not return the site of an assessment.
		visible = visible && c.maySeeSite(site)
	}
	if !visible {
		return reply{}, notFound()
	}
	id, err := a.c.Vendor.Assessment(ctx, connection, originator, number)
	if err != nil {
		return reply{}, vendorProblem(err)
	}
	return reply{body: Assessment{Id: id, Originator: originator, Number: number, Connection: connection.ID}}, nil
}

// vendorProblem returns the problem for a failed call to the vendor, judging by its outcome alone.
func vendorProblem(err error) error {
	p := &problem{cause: err, detail: vendorSaid(err)}
	switch outcome := audatex.OutcomeOf(err); outcome {
	case audatex.NotFound:
		p.kind = kindNotFound
	case audatex.Unauthorised:
		p.kind = kindConsent
	case audatex.Throttled:
		p.kind, p.retryAfter = kindBusy, max(audatex.RetryAfterOf(err), 5*time.Second)
	default: // conflict, forbidden, unavailable, malformed, too large
		p.kind = kindVendor
		if p.detail == "" {
			p.detail = "Outcome: " + outcome.String() + "."
		}
	}
	return p
}

// vendorSaid returns the vendor's message and its correlation id, or "" if there is neither.
func vendorSaid(err error) string {
	var said []string
	if e, ok := errors.AsType[*audatex.Error](err); ok && e.Message != "" {
		said = append(said, "The vendor said: "+e.Message)
	}
	if id := audatex.CorrelationIDOf(err); id != "" {
		said = append(said, "Correlation id: "+id)
	}
	return strings.Join(said, " · ")
}
