package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxControlBody bounds the requests of the control API. An order of a thousand parts is far
// smaller.
const maxControlBody = 8 << 20

// handler handles a request of the control API. It returns what is sent back; statusOf has the status of an error.
type handler func(*http.Request) (status int, value any, err error)

// shows returns the handler that sends what get returns.
func shows[T any](get func() T) handler {
	return func(*http.Request) (int, any, error) { return http.StatusOK, get(), nil }
}

// named returns the handler of what is done to the thing of the path's id.
func named(do func(id string) error) handler {
	return func(r *http.Request) (int, any, error) { return http.StatusNoContent, nil, do(r.PathValue("id")) }
}

// takes returns the handler of a request with a JSON body.
func takes[T any](status int, do func(*http.Request, T) (any, error)) handler {
	return func(r *http.Request) (int, any, error) {
		var body T
		if err := decode(r.Body, &body); err != nil {
			return 0, nil, err
		}
		value, err := do(r, body)
		return status, value, err
	}
}

// takesRaw returns the handler of a request whose body may be anything.
func takesRaw(do func(r *http.Request, site string, body []byte) (any, error)) handler {
	return func(r *http.Request) (int, any, error) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return 0, nil, fmt.Errorf("reading the body: %w", err)
		}
		value, err := do(r, r.URL.Query().Get("site"), raw)
		return http.StatusOK, value, err
	}
}

// control adds the control API, which offers the methods of Sandbox to other processes. Faults
// never affect it. It has no authentication, and its refresh tokens are valid only here.
func (s *Sandbox) control(mux *http.ServeMux) {
	handle := func(pattern string, run handler) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+ControlPath+path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
			status, value, err := run(r)
			if err != nil {
				status, value = statusOf(err), map[string]string{"error": err.Error()}
			}
			writeJSON(w, status, value)
		})
	}
	handle("POST /grants", takes(http.StatusCreated, func(_ *http.Request, c Consent) (any, error) {
		return s.Grant(c)
	}))
	handle("DELETE /grants/{id}", named(s.RevokeGrant))
	handle("POST /grants/{id}/expire", named(s.ExpireAccessTokens))
	handle("PUT /consent", takes(http.StatusNoContent, func(_ *http.Request, c Consent) (any, error) {
		return nil, s.SetAutoConsent(&c)
	}))
	handle("DELETE /consent", named(func(string) error { return s.SetAutoConsent(nil) }))
	handle("GET /accounts", shows(s.shownAccounts))
	handle("PUT /accounts", takes(http.StatusOK, func(_ *http.Request, accounts []Account) (any, error) {
		err := s.SetAccounts(accounts...)
		return s.shownAccounts(), err
	}))
	handle("POST /accounts", takes(http.StatusOK, func(_ *http.Request, a Account) (any, error) {
		err := s.AddAccount(a)
		return s.shownAccounts(), err
	}))
	handle("GET /behaviour", shows(s.Behaviour))
	handle("PUT /behaviour", takes(http.StatusOK, func(_ *http.Request, b Behaviour) (any, error) {
		err := s.SetBehaviour(b)
		return s.Behaviour(), err
	}))
	s.controlOrders(handle)
	handle("GET /faults", shows(s.shownFaults))
	handle("PUT /faults", takes(http.StatusNoContent, s.controlFaults))
	handle("GET /counters", shows(s.Counters))
	handle("GET /ledger", shows(func() Ledger {
		l := s.Ledger()
		for _, o := range l.Orders {
			for i := range o.States {
				o.States[i].JSON = encodable(o.States[i].JSON)
			}
		}
		return l
	}))
	handle("GET /lost-orders", shows(s.LostOrders))
	handle("GET /subscriptions", shows(s.Subscriptions))
	handle("DELETE /subscriptions/{id}", named(s.RemoveSubscription))
	handle("POST /reset", named(func(string) error {
		s.Reset()
		return nil
	}))
}

func (s *Sandbox) controlOrders(handle func(string, handler)) {
	type newOrder struct {
		Site string `json:"site"`
		OrderOptions
	}
	handle("POST /orders", takes(http.StatusCreated, func(_ *http.Request, o newOrder) (any, error) {
		return s.CreateOrder(o.Site, o.OrderOptions)
	}))
	handle("GET /orders/{id}", func(r *http.Request) (int, any, error) {
		o, err := s.Order(r.PathValue("id"))
		o.JSON = encodable(o.JSON)
		return http.StatusOK, o, err
	})
	handle("PUT /orders/{id}", takesRaw(func(r *http.Request, site string, raw []byte) (any, error) {
		o, err := s.SetOrder(site, r.PathValue("id"), raw)
		o.JSON = encodable(o.JSON)
		return o, err
	}))
	handle("DELETE /orders/{id}", named(s.RemoveOrder))
	handle("POST /orders/{id}/advance", func(r *http.Request) (int, any, error) {
		o, err := s.AdvanceOrder(r.PathValue("id"))
		return http.StatusOK, o, err
	})
	handle("POST /orders/{id}/change", takes(http.StatusOK, func(r *http.Request, c Change) (any, error) {
		return s.ChangeOrder(r.PathValue("id"), c)
	}))
	handle("POST /orders/{id}/touch", named(s.Touch))
	handle("POST /notifications", takesRaw(func(_ *http.Request, site string, raw []byte) (any, error) {
		if site == "" || len(raw) == 0 {
			return nil, errors.New("queueing a raw message needs ?site= and a body")
		}
		return map[string]int{"queues": s.QueueRaw(site, raw)}, nil
	}))
}

// shownAccounts returns the accounts as the control API shows them: who they are and what they grant.
func (s *Sandbox) shownAccounts() []Consent {
	list := []Consent{}
	for _, a := range s.Accounts() {
		list = append(list, a.Consent)
	}
	return list
}

// wireFaults is Faults in the control API's JSON.
type wireFaults struct {
	Faults
	LatencyMilliseconds int64 `json:"latencyMilliseconds"`
	RetryAfterSeconds   int64 `json:"retryAfterSeconds"`
}

func (s *Sandbox) shownFaults() []wireFaults {
	list := []wireFaults{}
	for _, f := range s.Faults() {
		list = append(list, wireFaults{f, f.Latency.Milliseconds(), int64(f.RetryAfter / time.Second)})
	}
	return list
}

// controlFaults accepts one object or a list of them.
func (s *Sandbox) controlFaults(_ *http.Request, body json.RawMessage) (any, error) {
	if !bytes.HasPrefix(body, []byte("[")) {
		body = slices.Concat([]byte("["), body, []byte("]"))
	}
	var list []wireFaults
	if err := decode(bytes.NewReader(body), &list); err != nil {
		return nil, err
	}
	faults := make([]Faults, len(list))
	for i, w := range list {
		w.Latency = time.Duration(w.LatencyMilliseconds) * time.Millisecond
		w.RetryAfter = time.Duration(w.RetryAfterSeconds) * time.Second
		faults[i] = w.Faults
	}
	return nil, s.SetFaults(faults...)
}

// statusOf returns the status of an error of the control API.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNoGrant), errors.Is(err, ErrNoOrder), errors.Is(err, ErrNoSubscription):
		return http.StatusNotFound
	case errors.Is(err, ErrOrderEnded), errors.Is(err, ErrOrderRaw):
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

func decode(from io.Reader, v any) error {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields() // a misspelled option would be ignored
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	return nil
}

// encodable returns raw if it is JSON, otherwise raw as a JSON string: SetOrder accepts anything.
func encodable(raw json.RawMessage) json.RawMessage {
	if json.Valid(raw) {
		return raw
	}
	quoted, err := json.Marshal(string(raw))
	if err != nil {
		return json.RawMessage("null") // no string fails to encode
	}
	return quoted
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false) // only white space of orders may change
	if err := e.Encode(value); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the caller may be gone
}
