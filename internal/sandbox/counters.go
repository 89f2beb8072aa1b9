package sandbox

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Operation is the name of one of the vendor's calls, in counters and faults.
type Operation string

// The operations. OpTrap is a call to a URL from a message; OpUnknown is any path that the vendor
// does not have.
const (
	OpWhoami            Operation = "whoami"
	OpTopics            Operation = "topics"
	OpListSubscriptions Operation = "listSubscriptions"
	OpSubscribe         Operation = "subscribe"
	OpUnsubscribe       Operation = "unsubscribe"
	OpPoll              Operation = "poll"
	OpReadOrder         Operation = "readOrder"
	OpReadAssessment    Operation = "readAssessment"
	OpUsersMe           Operation = "usersMe"
	OpAuthorize         Operation = "authorize"
	OpSignIn            Operation = "signIn"
	OpToken             Operation = "token"
	OpTrap              Operation = "trap"
	OpUnknown           Operation = "unknown"
)

var operations = []Operation{OpWhoami, OpTopics, OpListSubscriptions, OpSubscribe, OpUnsubscribe, OpPoll,
	OpReadOrder, OpReadAssessment, OpUsersMe, OpAuthorize, OpSignIn, OpToken, OpTrap, OpUnknown}

// Counters counts what happened since the start or the last Reset.
type Counters struct {
	// Requests per operation, including refused and cut ones.
	Requests map[Operation]int64 `json:"requests"`
	// Statuses per HTTP status sent; 0 is for responses that were cut.
	Statuses map[int]int64 `json:"statuses"`
	// Faults per kind drawn: 500, 429, 503, cut, cutAfterRead, latency.
	Faults map[string]int64 `json:"faults"`

	OrdersCreated int64 `json:"ordersCreated"`
	OrdersChanged int64 `json:"ordersChanged"`

	// NotificationsQueued were put in a subscription's queue; for NotificationsMissed there was no
	// subscription, so nobody can get them.
	NotificationsQueued int64 `json:"notificationsQueued"`
	NotificationsMissed int64 `json:"notificationsMissed"`
	// NotificationsWaiting are still in a queue.
	NotificationsWaiting int64 `json:"notificationsWaiting"`
	// NotificationsHandedOut left their queue in a response; NotificationsLost are those of them
	// whose response was not sent completely.
	NotificationsHandedOut int64 `json:"notificationsHandedOut"`
	NotificationsLost      int64 `json:"notificationsLost"`
	// NotificationsDropped were removed with their subscription, unread.
	NotificationsDropped int64 `json:"notificationsDropped"`

	// PagesHandedOut are polls that returned something, PagesFull those with as much as fits on a
	// page, PagesLost those whose response was not sent completely.
	PagesHandedOut int64 `json:"pagesHandedOut"`
	PagesFull      int64 `json:"pagesFull"`
	PagesLost      int64 `json:"pagesLost"`

	SubscriptionsCreated int64 `json:"subscriptionsCreated"`
	SubscriptionsRemoved int64 `json:"subscriptionsRemoved"`

	// SignInsRefused had a wrong company code, user name or password.
	SignInsRefused int64 `json:"signInsRefused"`
	CodesExchanged int64 `json:"codesExchanged"`
	// CodesReused counts uses of a code after its first, VerifiersRefused codes without the
	// verifier of their challenge.
	CodesReused      int64 `json:"codesReused"`
	VerifiersRefused int64 `json:"verifiersRefused"`
	TokenRefreshes   int64 `json:"tokenRefreshes"`
	// TokensLost are token pairs whose response was not sent completely: the old refresh token is
	// spent, and nobody has the new one.
	TokensLost int64 `json:"tokensLost"`
	// SpentRefreshTokens counts refusals of refresh tokens that had been used before.
	SpentRefreshTokens int64 `json:"spentRefreshTokens"`
	// ClientsRefused counts token requests with wrong or no client credentials.
	ClientsRefused int64 `json:"clientsRefused"`

	// PollsOverlapping began while another poll of the same grant was under way,
	// RefreshesOverlapping likewise. A call that its caller gave up is under way until the end of
	// the connection is noticed, for some milliseconds.
	PollsOverlapping     int64 `json:"pollsOverlapping"`
	RefreshesOverlapping int64 `json:"refreshesOverlapping"`

	// RateLimited were refused because of Config.RateLimit.
	RateLimited int64 `json:"rateLimited"`

	// TrapCalls went to a URL from a message. It must stay 0.
	TrapCalls int64 `json:"trapCalls"`

	// Grants by grant id.
	Grants map[string]GrantCounters `json:"grants"`
}

// GrantCounters counts what happened under one grant.
type GrantCounters struct {
	Polls                int64 `json:"polls"`
	PollsOverlapping     int64 `json:"pollsOverlapping"`
	TokenRefreshes       int64 `json:"tokenRefreshes"`
	RefreshesOverlapping int64 `json:"refreshesOverlapping"`
	TokensLost           int64 `json:"tokensLost"`
	SpentRefreshTokens   int64 `json:"spentRefreshTokens"`
}

// Counters returns a consistent copy of all counters.
func (s *Sandbox) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.tally
	c.Requests, c.Statuses, c.Faults = maps.Clone(c.Requests), maps.Clone(c.Statuses), maps.Clone(c.Faults)
	c.Grants = make(map[string]GrantCounters, len(s.grants))
	for id, g := range s.grants {
		c.Grants[id] = g.counters
	}
	for _, sub := range s.subs {
		c.NotificationsWaiting += int64(len(sub.queue))
	}
	return c
}

// Ledger is the truth about every order, whether or not anybody was notified. A verifier compares a
// client's events with it.
type Ledger struct {
	// Orders in the order of their creation, including removed ones.
	Orders []OrderRecord `json:"orders"`
	// Raw are the notifications of QueueRaw.
	Raw []NotificationRecord `json:"raw"`
}

// OrderRecord is the history of one order.
type OrderRecord struct {
	ID      string `json:"id"`
	Site    string `json:"site"`
	Removed bool   `json:"removed"`
	// States of the order, first to last.
	States []OrderState `json:"states"`
	// Notifications about it, one per subscription and occasion, in the order of queueing.
	Notifications []NotificationRecord `json:"notifications"`
}

// OrderState is one state of an order, served from At on.
type OrderState struct {
	Status string    `json:"status"`
	At     time.Time `json:"at"`
	// JSON are the exact bytes of the order. The control API's own encoding may change white space,
	// but no digits.
	JSON json.RawMessage `json:"order"`
}

// NotificationRecord is one entry of one subscription's queue.
type NotificationRecord struct {
	// ID is the notification's uuid, even for the older form, which does not contain it; empty for
	// raw ones.
	ID           string    `json:"id"`
	Subscription string    `json:"subscription"`
	Site         string    `json:"site"`
	Order        string    `json:"order"`
	Topic        string    `json:"topic"`
	Form         Form      `json:"form"`
	QueuedAt     time.Time `json:"queuedAt"`
	// HandedOutAt is when a response took it from the queue, and CorrelationID is that response's.
	// It is zero if it waits, or was removed with its subscription (Dropped).
	HandedOutAt   time.Time `json:"handedOutAt,omitzero"`
	CorrelationID string    `json:"correlationId,omitempty"`
	// Lost is set if that response was not sent completely, so nobody can have read it.
	Lost    bool `json:"lost"`
	Dropped bool `json:"dropped"`
}

// Ledger returns a copy of the ledger. The bytes of the orders are shared and must not be changed.
func (s *Sandbox) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Ledger{Orders: make([]OrderRecord, 0, len(s.orderList)), Raw: records(s.rawNotes)}
	for _, o := range s.orderList {
		l.Orders = append(l.Orders, OrderRecord{
			ID: o.ID, Site: o.Site, Removed: o.removed,
			States: slices.Clone(o.states), Notifications: records(o.notes),
		})
	}
	return l
}

// LostOrders returns the ids of the orders that lost at least one notification with a cut response
// or with its subscription, in the order of their creation. A client cannot be blamed for these.
func (s *Sandbox) LostOrders() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for _, o := range s.orderList {
		if slices.ContainsFunc(o.notes, func(n *notification) bool { return n.Lost || n.Dropped }) {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

func records(notes []*notification) []NotificationRecord {
	out := make([]NotificationRecord, 0, len(notes))
	for _, n := range notes {
		out = append(out, n.NotificationRecord)
	}
	return out
}
