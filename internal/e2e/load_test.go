package e2e

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// load lets things happen at the vendor's for as long as a test wants, no matter what becomes of
// the relay meanwhile.
type load struct {
	stop    chan struct{}
	running sync.WaitGroup
}

// startLoad makes an order or moves one of the newest on, once in every interval.
func (w *world) startLoad(seed uint64, every time.Duration) *load {
	l := &load{stop: make(chan struct{})}
	dice := rand.New(rand.NewPCG(seed, 1))
	l.running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		var orders []string
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			if len(orders) == 0 || dice.IntN(4) == 0 {
				o, err := w.sandbox.CreateOrder(vendorSite(w.sites[dice.IntN(len(w.sites))]), sandbox.OrderOptions{})
				if err != nil {
					w.t.Error(err)
					return
				}
				orders = append(orders, o.ID)
				continue
			}
			newest := orders[max(0, len(orders)-50):]
			if err := w.moveOn(newest[dice.IntN(len(newest))], dice.IntN(7) == 0); err != nil {
				w.t.Error(err)
				return
			}
		}
	})
	return l
}

// end stops the load.
func (l *load) end() {
	close(l.stop)
	l.running.Wait()
}

// operator does what an operator does when the relay asks for a consent: it has a user consent
// again, and puts the refresh token on the connection. It returns a function that stops it.
func (w *world) operator() (stop func()) {
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			if !w.serving() {
				continue
			}
			connections, err := harness.Items[harness.Connection](w.api(), "/v1/connections?limit=500")
			if err != nil {
				continue // it may have been killed meanwhile
			}
			for _, c := range connections {
				if c.State == "consent-required" {
					w.renew(c.ID)
				}
			}
		}
	})
	return func() {
		close(quit)
		running.Wait()
	}
}

// renew gives a connection a new consent. A relay that dies before it responds may have stored it
// or not: if not, it will ask again.
func (w *world) renew(site string) {
	token, err := w.grant(site)
	if err != nil {
		w.t.Error(err)
		return
	}
	_, _ = w.api().Call(http.MethodPatch, "/v1/connections/"+site, map[string]any{"refreshToken": token})
}
