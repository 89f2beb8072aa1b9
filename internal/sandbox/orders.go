package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Statuses are the vendor's statuses of orders and parts.
var Statuses = []string{"New", "Confirmed", "Dispatched", "Delivered", "Cancelled",
	"ReturnRequested", "ReturnAccepted", "ReturnRejected"}

// OrderOptions configure a new order. Everything else is generated.
type OrderOptions struct {
	// ID is the order's uuid. Default: generated.
	ID string `json:"id,omitempty"`
	// Status is the first status. Default New.
	Status string `json:"status,omitempty"`
	// Reference is the OrderReference. Default: generated.
	Reference string `json:"orderReference,omitempty"`
	// Parts is the number of parts, 1 to 1,000. Default: one to five.
	Parts int `json:"parts,omitempty"`
	// Silent creates it without a notification, as if that had been lost.
	Silent bool `json:"silent,omitempty"`
}

// Change is what ChangeOrder does to an order.
type Change struct {
	// Status is the new status; it need not be the next one. If it is empty, the status stays and a
	// price changes.
	Status string `json:"status,omitempty"`
	// Silent changes without a notification, as if that had been lost.
	Silent bool `json:"silent,omitempty"`
}

// Order is the present state of an order.
type Order struct {
	ID     string `json:"id"`
	Site   string `json:"site"`
	Status string `json:"status"`
	// Revision is the number of its states.
	Revision int `json:"revision"`
	// Ended is set if AdvanceOrder can do nothing more.
	Ended bool `json:"ended"`
	// Originator and AssessmentNumber are the keys of AssessmentID in the assessment look-up.
	Originator       string `json:"originator,omitempty"`
	AssessmentNumber string `json:"assessmentNumber,omitempty"`
	AssessmentID     string `json:"assessmentId,omitempty"`
	// JSON are the exact bytes that a reader gets, within the array. They must not be changed.
	JSON json.RawMessage `json:"order"`
}

type order struct {
	id, site   string
	status     string
	ahead      []string // statuses still to come
	json       json.RawMessage
	made       *goods // nil if the order was set as raw JSON
	dice       dice
	states     []OrderState
	notes      []*notification
	removed    bool
	reference  string
	originator string
	number     string

	assessmentID string
}

// view must be called with mu held.
func (o *order) view() Order {
	return Order{ID: o.id, Site: o.site, Status: o.status, Revision: len(o.states), Ended: len(o.ahead) == 0,
		Originator: o.originator, AssessmentNumber: o.number, AssessmentID: o.assessmentID, JSON: o.json}
}

var uuidFormat = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

// CreateOrder makes an order of a site and queues PARTS.ORDER.CREATED for its subscriptions. The
// site need not have a grant. It returns an error if an option is invalid.
func (s *Sandbox) CreateOrder(site string, opts OrderOptions) (Order, error) {
	switch {
	case site == "":
		return Order{}, errors.New("creating an order: it needs a site")
	case opts.ID != "" && !uuidFormat.MatchString(opts.ID):
		return Order{}, fmt.Errorf("creating an order: id %q is not a uuid", opts.ID)
	case opts.Status != "" && !slices.Contains(Statuses, opts.Status):
		return Order{}, fmt.Errorf("creating an order: status %q is none of %v", opts.Status, Statuses)
	case opts.Parts < 0 || opts.Parts > 1000:
		return Order{}, fmt.Errorf("creating an order: %d parts are not between 1 and 1,000", opts.Parts)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.siteOrders[site]++
	number := s.siteOrders[site]
	d := s.dice("order/"+site, uint64(number))
	o := &order{
		id: d.uuid(), assessmentID: d.uuid(), site: site, status: "New", dice: d,
		reference: fmt.Sprintf("PO-%s-%06d", site, number), originator: "C" + site,
		number: fmt.Sprintf("A%06d", number),
	}
	if opts.ID != "" {
		o.id = strings.ToLower(opts.ID)
	}
	if s.orders[o.id] != nil {
		return Order{}, fmt.Errorf("creating an order: %s exists", o.id)
	}
	if opts.Status != "" {
		o.status = opts.Status
	}
	if opts.Reference != "" {
		o.reference = opts.Reference
	}
	o.ahead = s.course(d, o.status)
	o.made = newGoods(d, opts.Parts, s.cfg.Tame)
	o.made.move(d, o.status, s.now())
	s.assessments[assessmentKey{o.originator, o.number}] = o.assessmentID
	s.insert(o)
	s.record(o, o.made.render(d, o))
	s.tally.OrdersCreated++
	if !opts.Silent {
		s.notify(o, TopicCreated)
	}
	return o.view(), nil
}

// insert must be called with mu held.
func (s *Sandbox) insert(o *order) {
	s.orders[o.id] = o
	s.orderList = append(s.orderList, o)
}

// record stores raw as the order's new state. The caller must hold mu.
func (s *Sandbox) record(o *order, raw json.RawMessage) {
	o.json = raw
	o.states = append(o.states, OrderState{Status: o.status, At: s.now(), JSON: raw})
}

// course returns the statuses of an order after a given one. Most orders end as delivered; a
// hostile vendor has some that are cancelled and some that are returned.
func (s *Sandbox) course(d dice, status string) []string {
	whole := []string{"New", "Confirmed", "Dispatched", "Delivered"}
	if !s.cfg.Tame {
		switch d.IntN(10) {
		case 0:
			whole = []string{"New", "Confirmed", "Cancelled"}
		case 1:
			whole = append(whole, "ReturnRequested", "ReturnAccepted")
		case 2:
			whole = append(whole, "ReturnRequested", "ReturnRejected")
		}
	}
	if status == "ReturnRequested" && !slices.Contains(whole, status) {
		return []string{"ReturnAccepted"}
	}
	i := slices.Index(whole, status)
	if i < 0 {
		return nil
	}
	return whole[i+1:]
}

// find returns an existing order by its id, ignoring case. The caller must hold mu.
func (s *Sandbox) find(id string) *order {
	o := s.orders[strings.ToLower(id)]
	if o == nil || o.removed {
		return nil
	}
	return o
}

// Order returns the present state of an order. It returns ErrNoOrder if there is no such order.
func (s *Sandbox) Order(id string) (Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	if o == nil {
		return Order{}, fmt.Errorf("reading order %q: %w", id, ErrNoOrder)
	}
	return o.view(), nil
}

// AdvanceOrder moves an order to its next status, with its parts, dates and sometimes a price, and
// queues PARTS.ORDER.UPDATED. It returns ErrNoOrder, ErrOrderEnded after the last status, or
// ErrOrderRaw if the order came from SetOrder.
func (s *Sandbox) AdvanceOrder(id string) (Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	switch {
	case o == nil:
		return Order{}, fmt.Errorf("advancing order %q: %w", id, ErrNoOrder)
	case o.made == nil:
		return Order{}, fmt.Errorf("advancing order %s: %w", o.id, ErrOrderRaw)
	case len(o.ahead) == 0:
		return Order{}, fmt.Errorf("advancing order %s from %s: %w", o.id, o.status, ErrOrderEnded)
	}
	o.status, o.ahead = o.ahead[0], o.ahead[1:]
	o.made.move(o.dice, o.status, s.now())
	s.changed(o, false)
	return o.view(), nil
}

// ChangeOrder changes an order as the caller wants and, unless the change is silent, queues
// PARTS.ORDER.UPDATED. It returns ErrNoOrder and ErrOrderRaw like AdvanceOrder, and an error if the
// status does not exist.
func (s *Sandbox) ChangeOrder(id string, c Change) (Order, error) {
	if c.Status != "" && !slices.Contains(Statuses, c.Status) {
		return Order{}, fmt.Errorf("changing order %q: status %q is none of %v", id, c.Status, Statuses)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	switch {
	case o == nil:
		return Order{}, fmt.Errorf("changing order %q: %w", id, ErrNoOrder)
	case o.made == nil:
		return Order{}, fmt.Errorf("changing order %s: %w", o.id, ErrOrderRaw)
	case c.Status == "":
		o.made.reprice(o.dice)
	default:
		o.status, o.ahead = c.Status, s.course(o.dice, c.Status)
		o.made.move(o.dice, o.status, s.now())
	}
	s.changed(o, c.Silent)
	return o.view(), nil
}

// changed must be called with mu held.
func (s *Sandbox) changed(o *order, silent bool) {
	s.record(o, o.made.render(o.dice, o))
	s.tally.OrdersChanged++
	if !silent {
		s.notify(o, TopicUpdated)
	}
}

// Touch queues PARTS.ORDER.UPDATED for an order that did not change. It returns ErrNoOrder if there
// is no such order.
func (s *Sandbox) Touch(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	if o == nil {
		return fmt.Errorf("touching order %q: %w", id, ErrNoOrder)
	}
	s.notify(o, TopicUpdated)
	return nil
}

// SetOrder sets, byte for byte, what a reader of the order gets, and creates the order if needed.
// If id is empty, PartsOrderId is the id; otherwise raw need not be a proper order, or JSON. It
// queues nothing; use Touch or QueueRaw.
func (s *Sandbox) SetOrder(site, id string, raw json.RawMessage) (Order, error) {
	var named struct{ PartsOrderId, Status, AssessmentId string }
	err := json.Unmarshal(raw, &named)
	if id == "" {
		if err != nil {
			return Order{}, fmt.Errorf("setting an order without an id: reading its PartsOrderId: %w", err)
		}
		id = named.PartsOrderId
	}
	if site == "" || !uuidFormat.MatchString(id) {
		return Order{}, fmt.Errorf("setting an order: site %q, order %q: a site and a uuid are needed", site, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id = strings.ToLower(id)
	o := s.orders[id]
	if o == nil {
		o = &order{id: id}
		s.insert(o)
		s.tally.OrdersCreated++
	} else {
		s.tally.OrdersChanged++
	}
	o.site, o.status, o.ahead, o.made, o.removed = site, named.Status, nil, nil, false
	if uuidFormat.MatchString(named.AssessmentId) {
		o.assessmentID = named.AssessmentId
	}
	if o.assessmentID == "" {
		o.assessmentID = s.dice("assessment/"+id, 0).uuid()
	}
	s.record(o, bytes.Clone(raw))
	return o.view(), nil
}

// RemoveOrder makes an order unreadable (404). Notifications about it stay queued. It returns
// ErrNoOrder if there is no such order.
func (s *Sandbox) RemoveOrder(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	if o == nil {
		return fmt.Errorf("removing order %q: %w", id, ErrNoOrder)
	}
	o.removed = true
	return nil
}

// readOrder returns an array, as the vendor does.
func (s *Sandbox) readOrder(c call) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(c.PathValue("id"))
	switch {
	case o == nil:
		return plain(http.StatusNotFound, "The parts order does not exist.")
	case !c.grant.owner.sites[o.site]:
		return plain(http.StatusForbidden, textForbidden)
	}
	body := make([]byte, 0, len(o.json)+2)
	body = append(body, '[')
	body = append(body, o.json...)
	return jsonBody(http.StatusOK, append(body, ']'))
}
