package httpapi

import (
	"context"
	"regexp"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// maxOfSubject bounds how many events of one order, or about one thing, are searched for an id.
const maxOfSubject = 10_000

var (
	orderEventID = regexp.MustCompile(
		`^([a-z0-9][a-z0-9-]*)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([0-9]+)$`)
	operationalEventID = regexp.MustCompile(`^(_|[a-z0-9][a-z0-9-]*)-([a-z0-9-]+)-([0-9]+)$`)
)

// find returns the event with an id if the caller may see it, else notFound. The id contains the
// event's place: its site and order, or the kind and the id of an operational event's subject.
func (a *API) find(ctx context.Context, c caller, id string) (store.Stored, error) {
	subjects := candidates(c, id)
	if len(subjects) == 0 {
		return store.Stored{}, notFound()
	}
	var from uint64
	for range maxOfSubject / defaultEvents {
		events, more, err := a.c.Store.Events.Scan(ctx, from, subjects, defaultEvents)
		if err != nil {
			return store.Stored{}, err
		}
		for _, ev := range events {
			from = ev.Seq + 1
			if memberOf(ev.Body, "id") != id {
				continue
			}
			if !c.maySeeEvent(ev) {
				return store.Stored{}, notFound()
			}
			return ev, nil
		}
		if !more || len(events) == 0 {
			break
		}
	}
	return store.Stored{}, notFound()
}

// candidates returns the subjects at which an event with this id may be, limited to those that the
// caller may see. Other sites are not searched, so that the cost does not reveal whether an event
// exists there. Names may contain hyphens, so the id of an operational event may have several
// readings.
func candidates(c caller, id string) []string {
	if m := orderEventID.FindStringSubmatch(id); m != nil && relay.CheckName(m[1]) == nil {
		if !c.maySeeSite(m[1]) {
			return nil
		}
		return []string{topology.OrderFilter(m[1], m[2])}
	}
	m := operationalEventID.FindStringSubmatch(id)
	if m == nil {
		return nil
	}
	rest := strings.TrimSuffix(id, "-"+m[3])
	var subjects []string
	for _, k := range relay.Kinds() {
		middle := "-" + string(k) + "-"
		for from := 0; ; {
			i := strings.Index(rest[from:], middle)
			if i < 0 {
				break
			}
			site, about := rest[:from+i], rest[from+i+len(middle):]
			seen := c.maySeeSite(site) || k.Private()
			if about != "" && seen && (site == relay.NoSite || relay.CheckName(site) == nil) {
				subjects = append(subjects, topology.OperationalSubject(site, string(k), about))
			}
			from += i + 1
		}
	}
	return subjects
}
