package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxControlBody bounds the requests of the control API. An order of a thousand parts is far
// smaller.
const maxControlBody = 8 << 20

// problem is an error of the control API.
type problem struct {
	status int
	detail string
}

func (p problem) Error() string { return p.detail }

func badRequest(err error) error { return problem{http.StatusBadRequest, err.Error()} }

// control adds the control API, which offers the methods of Sandbox to other processes. Faults
// never affect it. It has no authentication, and its refresh tokens are valid only here.
func (s *Sandbox) control(mux *http.ServeMux) {
	handle := func(pattern string, run func(*http.Request) (int, any, error)) {
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
	handle("POST /grants", s.controlGrant)
	handle("DELETE /grants/{id}", func(r *http.Request) (int, any, error) {
		return http.StatusNoContent, nil, s.RevokeGrant(r.PathValue("id"))
	})
	handle("POST /grants/{id}/expire", func(r *http.Request) (int, any, error) {
		return http.StatusNoContent, nil, s.ExpireAccessTokens(r.PathValue("id"))
	})
	handle("PUT /consent", func(r *http.Request) (int, any, error) {
		var c Consent
		if err := readJSON(r, &c); err != nil {
			return 0, nil, err
		}
		if err := s.SetAutoConsent(&c); err != nil {
			return 0, nil, badRequest(err)
		}
		return http.StatusNoContent, nil, nil
	})
	handle("DELETE /consent", func(*http.Request) (int, any, error) {
		return http.StatusNoContent, nil, s.SetAutoConsent(nil)
	})
	s.controlPortal(handle)
	s.controlOrders(handle)
	handle("GET /faults", func(*http.Request) (int, any, error) {
		list := []wireFaults{}
		for _, f := range s.Faults() {
			list = append(list, toWire(f))
		}
		return http.StatusOK, list, nil
	})
	handle("PUT /faults", s.controlFaults)
	handle("GET /counters", func(*http.Request) (int, any, error) { return http.StatusOK, s.Counters(), nil })
	handle("GET /ledger", func(*http.Request) (int, any, error) {
		l := s.Ledger()
		for _, o := range l.Orders {
			for i := range o.States {
				o.States[i].JSON = encodable(o.States[i].JSON)
			}
		}
		return http.StatusOK, l, nil
	})
	handle("GET /lost-orders", func(*http.Request) (int, any, error) { return http.StatusOK, s.LostOrders(), nil })
	handle("GET /subscriptions", func(*http.Request) (int, any, error) { return http.StatusOK, s.Subscriptions(), nil })
	handle("DELETE /subscriptions/{id}", func(r *http.Request) (int, any, error) {
		return http.StatusNoContent, nil, s.RemoveSubscription(r.PathValue("id"))
	})
	handle("POST /reset", func(*http.Request) (int, any, error) {
		s.Reset()
		return http.StatusNoContent, nil, nil
	})
}

func (s *Sandbox) controlGrant(r *http.Request) (int, any, error) {
	var c Consent
	if err := readJSON(r, &c); err != nil {
		return 0, nil, err
	}
	g, err := s.Grant(c)
	if err != nil {
		return 0, nil, badRequest(err)
	}
	return http.StatusCreated, g, nil
}

func (s *Sandbox) controlOrders(handle func(string, func(*http.Request) (int, any, error))) {
	handle("POST /orders", func(r *http.Request) (int, any, error) {
		var body struct {
			Site string `json:"site"`
			OrderOptions
		}
		if err := readJSON(r, &body); err != nil {
			return 0, nil, err
		}
		o, err := s.CreateOrder(body.Site, body.OrderOptions)
		if err != nil {
			return 0, nil, badRequest(err)
		}
		return http.StatusCreated, o, nil
	})
	handle("GET /orders/{id}", func(r *http.Request) (int, any, error) {
		o, err := s.Order(r.PathValue("id"))
		o.JSON = encodable(o.JSON)
		return http.StatusOK, o, err
	})
	handle("PUT /orders/{id}", func(r *http.Request) (int, any, error) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return 0, nil, badRequest(fmt.Errorf("reading the body: %w", err))
		}
		o, err := s.SetOrder(r.URL.Query().Get("site"), r.PathValue("id"), raw)
		if err != nil {
			return 0, nil, badRequest(err)
		}
		o.JSON = encodable(o.JSON)
		return http.StatusOK, o, nil
	})
	handle("DELETE /orders/{id}", func(r *http.Request) (int, any, error) {
		return http.StatusNoContent, nil, s.RemoveOrder(r.PathValue("id"))
	})
	handle("POST /orders/{id}/advance", func(r *http.Request) (int, any, error) {
		o, err := s.AdvanceOrder(r.PathValue("id"))
		return http.StatusOK, o, err
	})
	handle("POST /orders/{id}/change", func(r *http.Request) (int, any, error) {
		var c Change
		if err := readJSON(r, &c); err != nil {
			return 0, nil, err
		}
		o, err := s.ChangeOrder(r.PathValue("id"), c)
		return http.StatusOK, o, err
	})
	handle("POST /orders/{id}/touch", func(r *http.Request) (int, any, error) {
		return http.StatusNoContent, nil, s.Touch(r.PathValue("id"))
	})
	handle("POST /notifications", func(r *http.Request) (int, any, error) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return 0, nil, badRequest(fmt.Errorf("reading the body: %w", err))
		}
		site := r.URL.Query().Get("site")
		if site == "" || len(raw) == 0 {
			return 0, nil, problem{http.StatusBadRequest, "queueing a raw message needs ?site= and a body"}
		}
		return http.StatusOK, map[string]int{"queues": s.QueueRaw(site, raw)}, nil
	})
}

// wireFaults is Faults in the control API's JSON.
type wireFaults struct {
	Share500            float64     `json:"share500"`
	Share429            float64     `json:"share429"`
	Share503            float64     `json:"share503"`
	ShareCut            float64     `json:"shareCut"`
	ShareCutAfterRead   float64     `json:"shareCutAfterRead"`
	ShareLatency        float64     `json:"shareLatency"`
	LatencyMilliseconds int64       `json:"latencyMilliseconds"`
	RetryAfterSeconds   int64       `json:"retryAfterSeconds"`
	Operations          []Operation `json:"operations,omitempty"`
	Paths               []string    `json:"paths,omitempty"`
}

func toWire(f Faults) wireFaults {
	return wireFaults{
		Share500: f.Share500, Share429: f.Share429, Share503: f.Share503, ShareCut: f.ShareCut,
		ShareCutAfterRead: f.ShareCutAfterRead, ShareLatency: f.ShareLatency,
		LatencyMilliseconds: f.Latency.Milliseconds(), RetryAfterSeconds: int64(f.RetryAfter / time.Second),
		Operations: f.Operations, Paths: f.Paths,
	}
}

func (w wireFaults) faults() Faults {
	return Faults{
		Share500: w.Share500, Share429: w.Share429, Share503: w.Share503, ShareCut: w.ShareCut,
		ShareCutAfterRead: w.ShareCutAfterRead, ShareLatency: w.ShareLatency,
		Latency:    time.Duration(w.LatencyMilliseconds) * time.Millisecond,
		RetryAfter: time.Duration(w.RetryAfterSeconds) * time.Second,
		Operations: w.Operations, Paths: w.Paths,
	}
}

// controlFaults accepts one object or a list of them.
func (s *Sandbox) controlFaults(r *http.Request) (int, any, error) {
	var body json.RawMessage
	if err := readJSON(r, &body); err != nil {
		return 0, nil, err
	}
	if !bytes.HasPrefix(body, []byte("[")) {
		body = append(append([]byte("["), body...), ']')
	}
	var list []wireFaults
	if err := decode(bytes.NewReader(body), &list); err != nil {
		return 0, nil, err
	}
	faults := make([]Faults, 0, len(list))
	for _, w := range list {
		faults = append(faults, w.faults())
	}
	if err := s.SetFaults(faults...); err != nil {
		return 0, nil, badRequest(err)
	}
	return http.StatusNoContent, nil, nil
}

func statusOf(err error) int {
	var p problem
	switch {
	case errors.As(err, &p):
		return p.status
	case errors.Is(err, ErrNoGrant), errors.Is(err, ErrNoOrder), errors.Is(err, ErrNoSubscription):
		return http.StatusNotFound
	case errors.Is(err, ErrOrderEnded), errors.Is(err, ErrOrderRaw):
		return http.StatusConflict
	default:
		return http.StatusBadRequest
	}
}

func readJSON(r *http.Request, v any) error { return decode(r.Body, v) }

func decode(from io.Reader, v any) error {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields() // a misspelled option would be ignored
	if err := d.Decode(v); err != nil {
		return problem{http.StatusBadRequest, "reading the body: " + err.Error()}
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
