package demo

import (
	"net/http"
	"sync/atomic"

	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/relaytest"
)

// newReceiver returns a receiver like that of a business system: it verifies and responds 200. It
// passes what it accepts to the audit and the journey. With drop it loses the first delivery after
// responding to it.
func newReceiver(a *receivedEvents, j *printer, drop bool) *relaytest.Receiver {
	var lose atomic.Bool
	lose.Store(drop)
	refused := func(problem string) {
		a.refused()
		j.note("refused a delivery: " + problem)
	}
	return &relaytest.Receiver{
		Sparing: true, Refused: refused,
		Behave: relaytest.Always(http.StatusOK),
		Accepted: func(d relaytest.Delivery, body []byte) {
			if lose.CompareAndSwap(true, false) {
				return
			}
			event, err := ledger.ParseEvent(body)
			if err != nil {
				refused(err.Error())
				return
			}
			j.delivered(event, d.At, j.afterRefusals(event, "200"))
		},
	}
}
