package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Front is the handler of the API's address from the start on, and knows whether requests should be
// sent here. Call Open before the first request, with Starting, and again with the API once it
// exists.
type Front struct {
	serving atomic.Pointer[http.Handler]

	mu    sync.Mutex
	phase phase
	waits string // what the start waits for
}

type phase int

const (
	phaseStarting phase = iota
	phaseRunning
	phaseDraining
)

// Open passes requests to a handler from now on.
func (f *Front) Open(h http.Handler) { f.serving.Store(&h) }

// ServeHTTP implements http.Handler.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*f.serving.Load()).ServeHTTP(w, r)
}

// Waiting notes what the start waits for.
func (f *Front) Waiting(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits = reason
}

// Started reports to load balancers that requests may be sent here.
func (f *Front) Started() { f.set(phaseRunning) }

// Drain reports to load balancers that no more requests should be sent here.
func (f *Front) Drain() { f.set(phaseDraining) }

func (f *Front) set(p phase) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phase = p
}

// Ready returns why requests should not be sent here, nil if they may.
func (f *Front) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.phase {
	case phaseStarting:
		if f.waits != "" {
			return fmt.Errorf("starting: %s", f.waits)
		}
		return errors.New("starting")
	case phaseDraining:
		return errors.New("draining")
	case phaseRunning:
	}
	return nil
}

// startingRetry is how long callers should wait while the relay starts.
const startingRetry = 5 * time.Second

// Starting returns a handler to use until there is an API. A relay that waits for its store is
// alive and not ready; everything else must be tried again. Reason returns what it waits for.
func Starting(publicURL string, reason func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !requestID.MatchString(id) {
			id = relay.NewID()
		}
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		waits := "starting"
		if err := reason(); err != nil {
			waits = err.Error()
		}
		read := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case read && r.URL.Path == "/livez":
			encode(w, http.StatusOK, "application/json", Liveness{Status: LivenessStatusOk})
		case read && r.URL.Path == "/readyz":
			ready := Readiness{Status: ReadinessStatusNotReady, Reason: waits}
			ready.Storage.Status = ReadinessStorageStatusFailing
			encode(w, http.StatusServiceUnavailable, "application/json", ready)
		default:
			w.Header().Set("Retry-After", strconv.Itoa(int(startingRetry/time.Second)))
			encode(w, kindBusy.status, "application/problem+json", Problem{
				Type:  strings.TrimSuffix(publicURL, "/") + "/problems/" + kindBusy.slug,
				Title: kindBusy.title, Status: kindBusy.status, Detail: "The relay is " + waits + ".", RequestId: id,
			})
		}
	})
}

// NewServer returns an HTTP server for the API, or for Starting, with limits against slow or
// hostile callers. The time for a body and for a response is limited per request, because a long
// poll may take a minute.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func encode(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := relay.Encode(v)
	if err != nil { // strings, numbers and times always encode
		panic(err)
	}
	write(w, status, contentType, body)
}
