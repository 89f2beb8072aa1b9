package demo

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/ledger"
)

const (
	breakPath = "/break"
	breakTime = 5 * time.Second
)

// breaking is a receiver that its user can break: for some seconds it responds 503 to every
// delivery.
type breaking struct {
	http.Handler
	journey *printer
	until   atomic.Pointer[time.Time]
}

// ServeHTTP implements http.Handler.
func (b *breaking) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	now := time.Now()
	if request.URL.Path == breakPath {
		until := now.Add(breakTime)
		b.until.Store(&until)
		b.journey.note("the receiver is broken: for five seconds it answers 503")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if until := b.until.Load(); until == nil || now.After(*until) {
		b.Handler.ServeHTTP(w, request)
		return
	}
	if body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, 16<<20)); err == nil {
		if e, err := ledger.ParseEvent(body); err == nil {
			b.journey.attempted(e, now, "503")
		}
	}
	http.Error(w, "broken for a while", http.StatusServiceUnavailable)
}
