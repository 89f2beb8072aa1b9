package sandbox

import (
	"bytes"
	"cmp"
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
	Order     // but for what view adds
	reference string
	ahead     []string       // statuses still to come
	made      *orderContents // nil if the order was set as raw JSON
	dice      dice
	states    []OrderState
	notes     []*notification
	removed   bool
}

// view must be called with mu held.
func (o *order) view() Order {
	v := o.Order
	v.Revision, v.Ended = len(o.states), len(o.ahead) == 0
	return v
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
	o := &order{reference: cmp.Or(opts.Reference, fmt.Sprintf("PO-%s-%06d", site, number)), dice: d, Order: Order{
		ID: cmp.Or(strings.ToLower(opts.ID), d.uuid()), AssessmentID: d.uuid(), Site: site,
		Status: cmp.Or(opts.Status, "New"), Originator: "C" + site, AssessmentNumber: fmt.Sprintf("A%06d", number),
	}}
	if s.orders[o.ID] != nil {
		return Order{}, fmt.Errorf("creating an order: %s exists", o.ID)
	}
	o.ahead = s.remainingStatuses(d, o.Status)
	o.made = newOrderContents(d, opts.Parts, s.cfg.Tame)
	o.made.move(d, o.Status, s.now())
	s.assessments[assessmentKey{o.Originator, o.AssessmentNumber}] = o.AssessmentID
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
	s.orders[o.ID] = o
	s.orderList = append(s.orderList, o)
}

// record stores raw as the order's new state. The caller must hold mu.
func (s *Sandbox) record(o *order, raw json.RawMessage) {
	o.JSON = raw
	o.states = append(o.states, OrderState{Status: o.Status, At: s.now(), JSON: raw})
}

// remainingStatuses returns the statuses of an order after a given one. Most orders end as delivered; a
// hostile vendor has some that are cancelled and some that are returned.
func (s *Sandbox) remainingStatuses(d dice, status string) []string {
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

// with does something to an existing order and returns the order as it is then. It returns
// ErrNoOrder if there is no such order. Doing is for its errors.
func (s *Sandbox) with(id, doing string, do func(*order) error) (Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	if o == nil {
		return Order{}, fmt.Errorf("%s order %q: %w", doing, id, ErrNoOrder)
	}
	if err := do(o); err != nil {
		return Order{}, fmt.Errorf("%s order %s: %w", doing, o.ID, err)
	}
	return o.view(), nil
}

// Order returns the present state of an order. It returns ErrNoOrder if there is no such order.
func (s *Sandbox) Order(id string) (Order, error) {
	return s.with(id, "reading", func(*order) error { return nil })
}

// AdvanceOrder moves an order to its next status, with its parts, dates and sometimes a price, and
// queues PARTS.ORDER.UPDATED. It returns ErrNoOrder, ErrOrderEnded after the last status, or
// ErrOrderRaw if the order came from SetOrder.
func (s *Sandbox) AdvanceOrder(id string) (Order, error) {
	return s.with(id, "advancing", func(o *order) error {
		switch {
		case o.made == nil:
			return ErrOrderRaw
		case len(o.ahead) == 0:
			return fmt.Errorf("it is %s: %w", o.Status, ErrOrderEnded)
		}
		o.Status, o.ahead = o.ahead[0], o.ahead[1:]
		o.made.move(o.dice, o.Status, s.now())
		s.changed(o, false)
		return nil
	})
}

// ChangeOrder changes an order as the caller wants and, unless the change is silent, queues
// PARTS.ORDER.UPDATED. It returns ErrNoOrder and ErrOrderRaw like AdvanceOrder, and an error if the
// status does not exist.
func (s *Sandbox) ChangeOrder(id string, c Change) (Order, error) {
	if c.Status != "" && !slices.Contains(Statuses, c.Status) {
		return Order{}, fmt.Errorf("changing order %q: status %q is none of %v", id, c.Status, Statuses)
	}
	return s.with(id, "changing", func(o *order) error {
		switch {
		case o.made == nil:
			return ErrOrderRaw
		case c.Status == "":
			o.made.reprice(o.dice)
		default:
			o.Status, o.ahead = c.Status, s.remainingStatuses(o.dice, c.Status)
			o.made.move(o.dice, o.Status, s.now())
		}
		s.changed(o, c.Silent)
		return nil
	})
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
	_, err := s.with(id, "touching", func(o *order) error {
		s.notify(o, TopicUpdated)
		return nil
	})
	return err
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
		o = &order{Order: Order{ID: id}}
		s.insert(o)
		s.tally.OrdersCreated++
	} else {
		s.tally.OrdersChanged++
	}
	o.Site, o.Status, o.ahead, o.made, o.removed = site, named.Status, nil, nil, false
	if uuidFormat.MatchString(named.AssessmentId) {
		o.AssessmentID = named.AssessmentId
	}
	if o.AssessmentID == "" {
		o.AssessmentID = s.dice("assessment/"+id, 0).uuid()
	}
	s.record(o, bytes.Clone(raw))
	return o.view(), nil
}

// RemoveOrder makes an order unreadable (404). Notifications about it stay queued. It returns
// ErrNoOrder if there is no such order.
func (s *Sandbox) RemoveOrder(id string) error {
	_, err := s.with(id, "removing", func(o *order) error {
		o.removed = true
		return nil
	})
	return err
}

// readOrder returns an array, as the vendor does.
func (s *Sandbox) readOrder(c call) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(c.PathValue("id"))
	switch {
	case o == nil:
		return plain(http.StatusNotFound, "The parts order does not exist.")
	case !c.grant.owner.sites[o.Site]:
		return plain(http.StatusForbidden, textForbidden)
	}
	return jsonBody(http.StatusOK, slices.Concat([]byte("["), o.JSON, []byte("]")))
}
