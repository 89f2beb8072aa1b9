package demo

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiver is what a business system puts up: it verifies, takes each event once, and answers 200. It verifies with the reference
// library of Standard Webhooks, which shares nothing with what signed.
type receiver struct {
	audit   *audit
	journey *journey
	hook    atomic.Pointer[standardwebhooks.Webhook]
	drop    atomic.Bool // lose the next delivery
}

func newReceiver(a *audit, j *journey, drop bool) *receiver {
	r := &receiver{audit: a, journey: j}
	r.drop.Store(drop)
	return r
}

// verifyWith sets the secret, which is known only once the callback is registered.
func (r *receiver) verifyWith(secret string) error {
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return fmt.Errorf("read the callback's secret: %w", err)
	}
	r.hook.Store(hook)
	return nil
}

// ServeHTTP takes one delivery.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	at := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, 16<<20))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	hook := r.hook.Load()
	if hook == nil {
		http.Error(w, "no secret to verify with yet", http.StatusServiceUnavailable)
		return
	}
	if err := hook.Verify(body, request.Header); err != nil {
		r.audit.refused()
		r.journey.note("refused a delivery: " + err.Error())
		http.Error(w, "the signature does not verify", http.StatusUnauthorized)
		return
	}
	event, err := readEvent(body)
	if err != nil || event.ID != request.Header.Get(standardwebhooks.HeaderWebhookID) {
		r.audit.refused()
		r.journey.note(fmt.Sprintf("refused a delivery that is no event, or not the one its webhook-id says: %v", err))
		http.Error(w, "no event", http.StatusBadRequest)
		return
	}
	if r.drop.CompareAndSwap(true, false) {
		return // 200, and nobody will ever hear of it
	}
	w.WriteHeader(http.StatusOK)
	r.journey.delivered(event, at, r.journey.afterRefusals(event, "200"))
}
