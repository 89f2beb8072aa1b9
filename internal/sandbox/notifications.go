package sandbox

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
)

// TrapURL is the placeholder of the trap in messages. Wherever it occurs in a notification (including
// QueueRaw's), the poll that hands it out replaces it by a URL of this sandbox under another host
// name, and Counters.TrapCalls counts the calls to it.
const TrapURL = "http://trap.sandbox.invalid"

// Form is the form of a notification.
type Form string

// The vendor's two forms, and that of QueueRaw.
const (
	Newer Form = "newer"
	Older Form = "older"
	Raw   Form = "raw"
)

// notification is one entry of one queue, kept for the ledger after it has left the queue.
type notification struct {
	NotificationRecord
	sub  *subscription
	body []byte // nil after it has left the queue
}

func newNotification(sub *subscription, r NotificationRecord) *notification {
	r.Subscription = sub.id
	return &notification{NotificationRecord: r, sub: sub}
}

// notify queues one notification about an order for every subscription that covers it. The caller
// must hold mu.
func (s *Sandbox) notify(o *order, topic string) {
	now := s.now()
	missed := true
	for _, owner := range s.bySite[o.Site] {
		for _, sub := range owner.subs {
			if !covers(sub.topic, topic) {
				continue
			}
			missed = false
			d := s.dice("notification/"+o.ID, uint64(len(o.notes)))
			n := newNotification(sub, NotificationRecord{
				ID: d.uuid(), Site: o.Site, Order: o.ID, Topic: topic, Form: Newer, QueuedAt: now,
			})
			// The older form names no site, so it is no use for a company's subscription, or a
			// user's with several sites.
			if !s.cfg.Tame && len(owner.sites) == 1 && owner.level != Company && d.oneIn(3) {
				n.Form = Older
			}
			n.body = s.message(d, n, o)
			o.notes = append(o.notes, n)
			s.enqueue(n)
		}
	}
	if missed {
		s.tally.NotificationsMissed++
	}
}

// enqueue must be called with mu held.
func (s *Sandbox) enqueue(n *notification) {
	n.sub.queue = append(n.sub.queue, n)
	s.tally.NotificationsQueued++
}

// message returns a notification in its form.
func (s *Sandbox) message(d dice, n *notification, o *order) []byte {
	if n.Form == Older {
		return olderMessage(d, n)
	}
	if s.cfg.Tame {
		return fields(nil).
			str("NotificationId", n.ID).str("SubscriptionId", n.sub.id).
			str("EventType", "PartsOrder").str("Topic", n.Topic).str("Message", "Parts order "+o.reference).
			str("CompanyCode", n.sub.owner.company).str("SiteId", n.Site).str("CreatedAt",
			vendorTime(n.QueuedAt, true)).
			raw("Parameters", "[]").
			raw("Resources", `[{"ResourceType":"PartsOrder","ResourceId":"`+n.Order+`"}]`).object()
	}
	upper := d.oneIn(3)
	inCase := func(id string) string {
		if upper {
			return strings.ToUpper(id)
		}
		return id
	}
	f := fields(nil).str("NotificationId", inCase(n.ID)).str("SubscriptionId", inCase(n.sub.id)).
		raw("EventType", pick(d, []string{`"PartsOrder"`, `"Updated"`, `null`})).str("Topic", n.Topic).
		raw("Message", pick(d, []string{`null`, `"Order <b>changed</b> & saved"`,
			`"Bestellung geändert – siehe Zubehör 🚗"`,
			`""`})).
		str("CompanyCode", n.sub.owner.company).str("SiteId", n.Site).
		str("CreatedAt", vendorTime(n.QueuedAt, !d.oneIn(4)))
	switch d.IntN(3) {
	case 0:
		f = f.raw("Parameters", "null")
	case 1:
		f = f.raw("Parameters",
			`[{"Key":"ResourceUrl","Value":"`+trapOrder(n.Order)+`"},{"Key":"Priority","Value":null}]`)
	}
	if d.oneIn(2) {
		f = f.raw("Resources", `[{"ResourceType":"Assessment","ResourceId":"`+inCase(o.AssessmentID)+
			`"},{"ResourceType":"`+pick(d, []string{"PartsOrder", "PARTS.ORDER", "Parts order"})+
			`","ResourceId":"`+inCase(n.Order)+`","Etag":7}]`)
	} else {
		f = f.raw("Resources", `[{"ResourceType":`+pick(d, []string{`"PartsOrder"`, `"Resource"`, `""`, `null`})+
			`,"ResourceId":"`+inCase(n.Order)+`"}]`)
	}
	if d.oneIn(2) {
		f = f.raw("Schema", `{"Version":2.10,"Href":"`+TrapURL+TrapPath+`/schema"}`)
	}
	return f.object()
}

// olderMessage returns a notification without ids and sites. The order is the last path segment of
// a URL, whose host and path clients must ignore.
func olderMessage(d dice, n *notification) []byte {
	id, query := n.Order, ""
	if d.oneIn(3) {
		id = strings.ToUpper(id)
	}
	if d.oneIn(8) {
		query = "?format=json"
	}
	f := fields(nil).str("Topic", n.Topic).str("CreatedAt", vendorTime(n.QueuedAt, !d.oneIn(4))).
		raw("ResourceUris", `[{"Type":`+pick(d, []string{`"PartsOrder"`, `"Uri"`, `null`})+
			`,"Value":"`+trapOrder(id)+query+`"}]`)
	if d.oneIn(3) {
		f = f.raw("Retries", "0")
	}
	return f.object()
}

// trapOrder returns a URL that looks like an order's and must not be called.
func trapOrder(id string) string {
	return TrapURL + TrapPath + APIPath + "/v1/bmsapi/partsorders/" + id
}

// trapFor returns the replacement of TrapURL for the caller of a poll: this listener, under another
// name if it has one.
func trapFor(r *http.Request) []byte {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		return []byte("http://" + r.Host)
	}
	switch host {
	case "127.0.0.1", "::1":
		host = "localhost"
	case "localhost":
		host = "127.0.0.1"
	}
	return []byte("http://" + net.JoinHostPort(host, port))
}

// poll hands out the oldest notifications of a queue, at most a page. They are gone from then on,
// even if the response is lost.
func (s *Sandbox) poll(c call) answer {
	s.mu.Lock()
	sub := s.owned(c)
	if sub == nil {
		s.mu.Unlock()
		return plain(http.StatusNotFound, textNoSubscription)
	}
	page := sub.queue[:min(len(sub.queue), s.cfg.PageSize)]
	if len(page) == 0 {
		s.mu.Unlock()
		return jsonBody(http.StatusOK, []byte("[]"))
	}
	sub.queue = sub.queue[len(page):]
	if len(sub.queue) == 0 {
		sub.queue = nil // so that the array can be freed
	}
	bodies, now := make([][]byte, len(page)), s.now()
	for i, n := range page {
		bodies[i], n.body = n.body, nil
		n.HandedOutAt, n.CorrelationID = now, c.correlationID
	}
	s.tally.NotificationsHandedOut += int64(len(page))
	s.tally.PagesHandedOut++
	if len(page) == s.cfg.PageSize {
		s.tally.PagesFull++
	}
	s.mu.Unlock()

	body := slices.Concat([]byte("["), bytes.Join(bodies, []byte(",")), []byte("]"))
	a := jsonBody(http.StatusOK, bytes.ReplaceAll(body, []byte(TrapURL), trapFor(c.Request)))
	a.lost = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range page {
			n.Lost = true
		}
		s.tally.NotificationsLost += int64(len(page))
		s.tally.PagesLost++
	}
	return a
}

// QueueRaw puts a message, unchanged except for TrapURL, into the queue of every subscription that
// covers the site, for any topic. The message may be nonsense, and need not be JSON; then the
// whole page with it is not JSON either. It returns the number of queues.
func (s *Sandbox) QueueRaw(site string, message json.RawMessage) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	queues, now := 0, s.now()
	for _, owner := range s.bySite[site] {
		for _, sub := range owner.subs {
			n := newNotification(sub, NotificationRecord{Site: site, Form: Raw, QueuedAt: now})
			n.body = bytes.Clone(message)
			s.rawNotes = append(s.rawNotes, n)
			s.enqueue(n)
			queues++
		}
	}
	if queues == 0 {
		s.tally.NotificationsMissed++
	}
	return queues
}
