package cluster

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// background is something that goes on beside the test until it is ended.
type background struct {
	paused  atomic.Bool
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup
}

// every does something at every turn of a clock.
func (w *world) every(interval time.Duration, do func()) *background {
	b := &background{stop: make(chan struct{})}
	b.running.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-tick.C:
			}
			if !b.paused.Load() {
				do()
			}
		}
	})
	w.t.Cleanup(b.end)
	return b
}

func (b *background) end() {
	b.once.Do(func() { close(b.stop) })
	b.running.Wait()
}

// startLoad makes an order or moves one of the newest on at every turn.
func (w *world) startLoad(seed uint64, interval time.Duration) *background {
	dice := rand.New(rand.NewPCG(seed, 1))
	var orders []string
	return w.every(interval, func() {
		if len(orders) == 0 || dice.IntN(4) == 0 {
			o, err := w.vendor.CreateOrder(vendorSite(w.sites[dice.IntN(len(w.sites))]), sandbox.OrderOptions{})
			if err != nil {
				w.t.Error(err)
				return
			}
			orders = append(orders, o.ID)
			return
		}
		newest := orders[max(0, len(orders)-50):]
		if err := w.moveOn(newest[dice.IntN(len(newest))], dice.IntN(7) == 0); err != nil {
			w.t.Error(err)
		}
	})
}

// moveOn queues one notification of an order: of its next status, of another price, or (touch) of
// nothing.
func (w *world) moveOn(id string, touch bool) error {
	if touch {
		return w.vendor.Touch(id)
	}
	o, err := w.vendor.Order(id)
	if err != nil {
		return err
	}
	switch {
	case !o.Ended:
		_, err = w.vendor.AdvanceOrder(id)
	case relay.IsClosed(o.Status): // it is not read again where notifications were lost: nothing becomes of it
		err = w.vendor.Touch(id)
	default:
		_, err = w.vendor.ChangeOrder(id, sandbox.Change{})
	}
	return err
}

// operator does what an operator does when a relay asks for a consent: it has a user consent again,
// and puts the refresh token on the connection.
func (w *world) operator() *background {
	return w.every(300*time.Millisecond, func() {
		api, ok := w.anyAPI()
		if !ok {
			return
		}
		api.Client = &http.Client{Transport: w.client.Transport, Timeout: 5 * time.Second}
		connections, err := harness.Items[harness.Connection](api, "/v1/connections?limit=500")
		if err != nil {
			return // it may have been killed, or cut off from the store
		}
		for _, c := range connections {
			if c.State != "consent-required" {
				continue
			}
			token, err := w.grant(c.ID)
			if err != nil {
				w.t.Error(err)
				return
			}
			// A relay that dies before it responds may have stored it or not: if not, it will ask
			// again.
			_, _ = api.Call(http.MethodPatch, "/v1/connections/"+c.ID, map[string]any{"refreshToken": token})
		}
	})
}
