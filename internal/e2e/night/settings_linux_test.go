package night

import (
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// ownFaults are in the relay's own way out.
func (h *house) ownFaults() []fault {
	failing := []string{"RelayReceiverFailing", "RelayReceiverCircuitOpen", "RelayBacklogOld"}
	return []fault{{
		name: "the proxy of the callbacks is gone",
		inject: func() func() {
			l := harness.Listen(h.t)
			nobody := l.Addr().String()
			_ = l.Close()
			restore := h.replicas[0].set("RELAY_CALLBACK_PROXY", "http://"+nobody)
			h.restart(0)
			return func() {
				restore()
				h.restart(0)
			}
		},
		fires: []string{"RelayMostReceiversFail"}, late: true,
		may:   append(failing, "RelayAbsent", "RelayNotScraped", "RelayDoesNotStart"), // it is started again
		leads: map[string]string{"RelayMostReceiversFail": `[^\n]*[Pp]roxy[^\n]*`},
	}}
}

// startFaults keep a replica in its start.
func (h *house) startFaults(s *silence) []fault {
	return []fault{{
		name: "a replica hangs in its start",
		inject: func() func() {
			h.kill(2)
			restore := h.replicas[2].set("RELAY_NATS_URL", "nats://"+s.addr)
			h.begin(2)
			return func() {
				h.kill(2)
				restore()
				h.run(2)
			}
		},
		fires: []string{"RelayDoesNotStart", "RelayReplicasMissing"}, late: true,
		may: []string{"RelayNotScraped", "RelayGapSuspected"},
		leads: map[string]string{
			"RelayDoesNotStart":    `audatex_relay_build_info\{.*job=relay-cluster.*\} 1`,
			"RelayReplicasMissing": `audatex_relay_members\{.*job=relay-cluster.*\} 2`,
		},
	}}
}

// lastingFaults last until deliveries fail for good, and until notifications have waited for long. Few orders are made
// meanwhile: with many the relay would wait for those that it could not read before it takes others.
func (h *house) lastingFaults() []fault {
	return []fault{{
		name:   "orders cannot be read",
		inject: h.setFaults(sandbox.Faults{Share503: 1, Operations: []sandbox.Operation{sandbox.OpReadOrder}}),
		fires:  []string{"RelayNotificationsWaiting", "RelayConnectionNotificationsWaiting"},
		leads: map[string]string{
			"RelayNotificationsWaiting":           `\{instance=[^ ]*, outcome=unavailable\} [1-9]`,
			"RelayConnectionNotificationsWaiting": `audatex_relay_notifications_oldest_waiting_seconds\{connection=leeds, .*\} [1-9]`,
		},
	}, {
		name: "a receiver answers 503 until no attempt is left",
		inject: func() func() {
			mend := h.answers("orders", http.StatusServiceUnavailable)()
			return func() {
				mend()
				// it would be probed minutes later
				h.api().Must(h.t, http.MethodPost, "/v1/callbacks/orders/resume", nil, nil)
			}
		},
		fires: []string{"RelayDeliveriesFailed"},
		may:   []string{"RelayReceiverFailing", "RelayReceiverCircuitOpen", "RelayBacklogOld"},
		leads: map[string]string{"RelayDeliveriesFailed": `"status":"failed"`},
		shows: map[int]string{8: `failed: [1-9]`},
	}}
}

// clientFaults are those of the API's users: nobody is woken.
func (h *house) clientFaults() []fault {
	return []fault{{
		name: "a client comes with a wrong key",
		inject: func() func() {
			caller := h.api()
			caller.Token = "a-key-that-nobody-made"
			for range 20 {
				if got, err := caller.Call(http.MethodGet, "/v1/events", nil); err != nil ||
					got.Status != http.StatusUnauthorized {
					h.t.Errorf("a wrong key: %d %v", got.Status, err)
				}
			}
			return func() {}
		},
		shows: map[int]string{10: `unauthorized: [1-9]`},
	}}
}

// silence is an address that takes connections and sends nothing.
type silence struct {
	addr string

	mu    sync.Mutex
	taken []net.Conn
}

// newSilence takes connections until the test ends.
func newSilence(t *testing.T) *silence {
	t.Helper()
	l := harness.Listen(t)
	s := &silence{addr: l.Addr().String()}
	var taking sync.WaitGroup
	taking.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			s.mu.Lock()
			s.taken = append(s.taken, c)
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		taking.Wait()
		for _, c := range s.taken {
			_ = c.Close()
		}
	})
	return s
}
