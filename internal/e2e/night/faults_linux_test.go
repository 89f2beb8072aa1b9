package night

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestTheNightOfFaults does what happens at night to relays under load, one fault after the other, and looks which
// alerts fire and who is told. RELAY_NIGHT is a file for the table that comes of it, or 1 for the log alone: the test
// takes half an hour, as some times of the relay cannot be made shorter.
func TestTheNightOfFaults(t *testing.T) {
	wanted := os.Getenv("RELAY_NIGHT")
	if wanted == "" {
		t.Skip("a night takes half an hour; RELAY_NIGHT wants it")
	}
	disk := smallDisk(t)
	single := newHouse(t, 1, embedded(filepath.Join(t.TempDir(), "data")))
	single.sites = append(single.sites, "ripon", "whitby") // failures of three connections open the vendor's circuit
	single.start()
	single.furnish(365 * 24 * time.Hour)
	for _, id := range []string{"orders", "stock"} {
		single.callback(id, newReceiver(t, nil))
	}
	single.callback("secure", newReceiver(t, single.by))
	single.keepBusy(250 * time.Millisecond)

	cluster := natstest.NewCluster(t)
	three := newHouse(t, 3, clustered(t, cluster))
	three.start()
	three.furnish(365 * 24 * time.Hour)
	three.callback("orders", newReceiver(t, nil))
	three.keepBusy(time.Second)

	small := newHouse(t, 1, embedded(filepath.Join(disk, "data")))
	small.sites = small.sites[:1]
	small.start()
	small.furnish(365 * 24 * time.Hour)

	w := newWatch(t, map[string]*house{"relay": single, "relay-cluster": three, "relay-small": small})
	faults := append(single.vendorFaults(), single.receiverFaults()...)
	faults = append(faults, small.diskFaults(disk)...)
	faults = append(faults, three.clusterFaults(cluster)...)
	faults = append(faults, fault{
		name: "all relays are killed",
		inject: func() func() {
			for _, h := range []*house{single, three, small} {
				for i := range h.replicas {
					h.kill(i)
				}
			}
			return func() {
				for _, h := range []*house{single, three, small} {
					h.start()
				}
			}
		},
		fires: []string{"RelayAbsent"},
	})
	var all []seen
	defer func() { // also if the night ends early
		text := table(all)
		t.Logf("times are shorter by a factor of %d\n%s", factor, text)
		if wanted != "1" {
			if err := os.WriteFile(wanted, []byte(text), 0o600); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { all = append(all, w.try(t, f)) })
	}
}

// setFaults has the vendor misbehave, and well again.
func (h *house) setFaults(f sandbox.Faults) func() func() {
	return func() func() {
		if err := h.sandbox.SetFaults(f); err != nil {
			h.t.Fatal(err)
		}
		return func() {
			if err := h.sandbox.SetFaults(); err != nil {
				h.t.Fatal(err)
			}
		}
	}
}

// answers has a receiver answer with a status, and then take everything again.
func (h *house) answers(id string, status int32) func() func() {
	return func() func() {
		h.receivers[id].status.Store(status)
		return func() { h.receivers[id].status.Store(http.StatusNoContent) }
	}
}

func (h *house) vendorFaults() []fault {
	return []fault{
		{
			name: "the vendor's clock is ten minutes off",
			inject: func() func() {
				if err := h.sandbox.SetBehaviour(sandbox.Behaviour{DateOffsetSeconds: 600}); err != nil {
					h.t.Fatal(err)
				}
				return func() { _ = h.sandbox.SetBehaviour(sandbox.Behaviour{}) }
			},
			fires: []string{"RelayClockOff"},
		},
		{name: "the vendor throttles a third", inject: h.setFaults(sandbox.Faults{Share429: 0.34, RetryAfter: time.Second}), fires: []string{"RelayVendorThrottles"}, late: true},
		{
			name: "a consent is withdrawn",
			inject: func() func() {
				if err := h.sandbox.RevokeGrant(h.grants["york"]); err != nil {
					h.t.Fatal(err)
				}
				return func() { h.consent("york") }
			},
			fires: []string{"RelayConsentRequired"},
		},
		{
			name: "the vendor sends what is no notification",
			inject: func() func() {
				h.foreign()
				return h.dropUnresolved
			},
			fires: []string{"RelayOrdersUnresolved"},
		},
		{
			name: "answers of polls are lost",
			inject: func() func() {
				mend := h.setFaults(sandbox.Faults{ShareCutAfterRead: 0.3, Operations: []sandbox.Operation{"poll"}})()
				return func() {
					mend()
					h.dropUnresolved() // what was cut in the middle is kept
				}
			},
			fires: []string{"RelayGapSuspected"}, may: []string{"RelayOrdersUnresolved"},
		},
		{
			name: "the vendor is down",
			inject: func() func() {
				h.vendor.close()
				return h.vendor.open
			},
			fires: []string{"RelayVendorCircuitOpen", "RelayPollsLate"}, late: true, may: []string{"RelayReplicaPollsLate", "RelayConnectionPollsLate", "RelayGapSuspected"},
		},
	}
}

// dropUnresolved deletes what is set aside.
func (h *house) dropUnresolved() {
	h.t.Helper()
	var list struct{ Items []struct{ ID string } }
	h.api().Must(h.t, http.MethodGet, "/v1/unresolved", nil, &list)
	for _, item := range list.Items {
		h.api().Must(h.t, http.MethodDelete, "/v1/unresolved/"+item.ID, nil, nil)
	}
}

func (h *house) receiverFaults() []fault {
	secure := func(ends time.Duration) func() func() {
		return func() func() {
			r := h.receivers["secure"]
			good := r.shows.Load()
			r.shows.Store(h.by.certificate(h.t, ends))
			r.reconnect()
			return func() {
				r.shows.Store(good)
				r.reconnect()
			}
		}
	}
	following := []string{"RelayReceiverCircuitOpen", "RelayBacklogOld"}
	return []fault{
		{name: "a receiver answers 503", inject: h.answers("orders", http.StatusServiceUnavailable), fires: []string{"RelayReceiverFailing", "RelayReceiverCircuitOpen"}, may: following},
		{
			name: "a receiver is dead",
			inject: func() func() {
				h.receivers["orders"].close()
				return h.receivers["orders"].open
			},
			fires: []string{"RelayReceiverFailing", "RelayReceiverCircuitOpen"}, may: following,
		},
		{name: "a receiver's certificate ends in ten days", inject: secure(10 * 24 * time.Hour), fires: []string{"RelayReceiverCertificateExpires"}},
		{
			name: "a receiver's certificate has expired", inject: secure(-time.Hour),
			fires: []string{"RelayReceiverFailing"}, may: append(following, "RelayReceiverCertificateExpires"),
		},
		{
			name: "a receiver answers 410",
			inject: func() func() {
				mend := h.answers("stock", http.StatusGone)()
				return func() {
					mend()
					h.api().Must(h.t, http.MethodPost, "/v1/callbacks/stock/resume", nil, nil)
				}
			},
			fires: []string{"RelayCallbackDisabled"}, may: []string{"RelayBacklogOld"},
		},
		{
			name: "a key ends in five days",
			inject: func() func() {
				var key struct{ ID string }
				h.api().Must(h.t, http.MethodPost, "/v1/clients/"+clientID+"/keys",
					map[string]any{"expiresAt": time.Now().Add(5 * 24 * time.Hour).UTC().Format(time.RFC3339)}, &key)
				return func() { h.api().Must(h.t, http.MethodDelete, "/v1/clients/"+clientID+"/keys/"+key.ID, nil, nil) }
			},
			fires: []string{"RelayAPIKeyExpires"},
		},
	}
}

func (h *house) diskFaults(disk string) []fault {
	return []fault{
		{name: "the disk is nearly full", inject: func() func() { return fill(h.t.(*testing.T), disk, 8) }, fires: []string{"RelayDiskNearlyFull"}},
		{
			name: "the disk is full",
			inject: func() func() {
				free := fill(h.t.(*testing.T), disk, 0)
				return func() {
					free()
					h.supervise()
				}
			},
			fires: []string{"RelayDiskNearlyFull", "RelayStoreFailing"}, late: true,
			may: []string{"RelayReplicasMissing", "RelayShardWithoutOwner", "RelayPollsLate", "RelayConnectionPollsLate"},
		},
	}
}

func (h *house) clusterFaults(cluster *natstest.Cluster) []fault {
	lose := func(nodes ...int) func() func() {
		return func() func() {
			for _, n := range nodes {
				cluster.Stop(n)
			}
			return func() {
				for _, n := range nodes {
					cluster.Start(h.t, n)
				}
			}
		}
	}
	return []fault{
		{name: "one of three NATS servers is lost", inject: lose(0)},
		{
			name: "two of three NATS servers are lost", inject: lose(0, 1), fires: []string{"RelayStoreFailing"}, late: true,
			may: []string{"RelayShardWithoutOwner", "RelayPollsLate", "RelayReplicaPollsLate", "RelayConnectionPollsLate", "RelayReplicasMissing", "RelayDeliverySlow", "RelayGapSuspected"},
		},
		{
			name: "one of three replicas is killed",
			inject: func() func() {
				h.kill(2)
				return func() { h.run(2) }
			},
			fires: []string{"RelayNotScraped", "RelayReplicasMissing"}, late: true,
		},
	}
}
