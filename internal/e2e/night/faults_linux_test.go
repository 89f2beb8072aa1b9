package night

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/prom"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// TestTheNightOfFaults does what happens at night to relays under load, one fault after the other, and looks which
// alerts fire and who is notified. RELAY_NIGHT is a file for the table that comes of it, or 1 for the log alone: the
// test takes half an hour, as some times of the relay cannot be made shorter.
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
	small.replicas[0].env["RELAY_RETRY_SCHEDULE"] = "1s,1s" // what it cannot deliver fails for good, soon
	small.sites = small.sites[:1]
	small.start()
	small.furnish(365 * 24 * time.Hour)
	small.callback("orders", newReceiver(t, nil))
	small.keepBusy(time.Second)

	w := newWatch(t, map[string]*house{"relay": single, "relay-cluster": three, "relay-small": small})
	faults := slices.Concat(
		single.does(single.vendorFaults(), single.receiverFaults(), single.clientFaults(), single.ownFaults()),
		small.does(small.lastingFaults(), small.diskFaults(disk)),
		three.does(three.clusterFaults(cluster), three.startFaults(newSilence(t))),
		single.does([]fault{allDead(single, three, small)}),
	)
	everyQuestionIsAsked(t, faults)
	var all []seen
	defer func() { // also if the night ends early
		text := table(all) + pictures(t, all)
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

// does marks faults as done to this relay.
func (h *house) does(lists ...[]fault) []fault {
	all := slices.Concat(lists...)
	for i := range all {
		all[i].of = h
	}
	return all
}

// everyQuestionIsAsked fails unless each question of a night has a fault that its panel shows, and each alert that must
// fire something that its page leads to.
func everyQuestionIsAsked(t *testing.T, faults []fault) {
	t.Helper()
	asked := map[int]bool{}
	for _, f := range faults {
		for n := range f.shows {
			asked[n] = true
		}
		for _, name := range f.fires {
			if f.leads[name] == "" {
				t.Errorf("%s: where does the page of %s lead to?", f.name, name)
			}
		}
	}
	if len(asked) != len(prom.Questions(t, root)) {
		t.Errorf("only these questions are asked: %v", slices.Sorted(maps.Keys(asked)))
	}
}

// allDead kills every replica there is.
func allDead(houses ...*house) fault {
	return fault{
		name: "all relays are killed",
		inject: func() func() {
			for _, h := range houses {
				for i := range h.replicas {
					h.kill(i)
				}
			}
			return func() {
				for _, h := range houses {
					h.start()
				}
			}
		},
		fires: []string{"RelayAbsent"}, leads: map[string]string{"RelayAbsent": `curl: \(7\).*`},
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

// answers has a receiver respond with a status, and then take everything again.
func (h *house) answers(id string, status int32) func() func() {
	return func() func() {
		h.receivers[id].status.Store(status)
		return func() { h.receivers[id].status.Store(http.StatusNoContent) }
	}
}

// slow has a receiver take a second for each event, and one after the other, so that it takes less than comes.
func (h *house) slow(id string) func() func() {
	return func() func() {
		take := func(atOnce int, each time.Duration) {
			h.receivers[id].takes.Store(int64(each))
			h.api().Must(h.t, http.MethodPatch, "/v1/callbacks/"+id, map[string]any{"concurrency": atOnce}, nil)
		}
		take(1, time.Second)
		return func() { take(4, 0) }
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
			leads: map[string]string{"RelayClockOff": `audatex_relay_vendor_clock_skew_seconds\{.*\} (59|60)\d`},
		},
		{
			name:   "the vendor throttles a third",
			inject: h.setFaults(sandbox.Faults{Share429: 0.34, RetryAfter: time.Second}),
			fires:  []string{"RelayVendorThrottles"},
			leads:  map[string]string{"RelayVendorThrottles": `\{(job=relay)?\} 0\.\d+`},
		},
		{
			name: "a consent is withdrawn",
			inject: func() func() {
				if err := h.sandbox.RevokeGrant(h.grants["york"]); err != nil {
					h.t.Fatal(err)
				}
				return func() { h.consent("york") }
			},
			fires: []string{"RelayConsentRequired"}, shows: map[int]string{4: `york refused: [1-9]`},
			leads: map[string]string{
				"RelayConsentRequired": `"consentRequiredReason": ?"the vendor refused the refresh token[^"]*"`,
			},
		},
		{
			name: "the vendor sends what is no notification",
			inject: func() func() {
				h.foreign()
				return h.dropUnresolved
			},
			fires: []string{"RelayOrdersUnresolved"}, shows: map[int]string{6: `malformed entries: [1-9]`},
			// if nothing else is in the queue's response, something came in its place
			may:   []string{"RelayGapSuspected"},
			leads: map[string]string{"RelayOrdersUnresolved": `"reason":"malformed"`},
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
			shows: map[int]string{5: `gaps suspected: \d*\.?\d*[1-9]`},
			leads: map[string]string{"RelayGapSuspected": `(leeds|york|ripon|whitby)",[^{}]*"gapSuspectedAt":"[^"]*"`},
		},
		{
			name: "the vendor is down",
			inject: func() func() {
				h.vendor.close()
				return h.vendor.open
			},
			fires: []string{"RelayVendorCircuitOpen", "RelayPollsLate"}, may: []string{
				"RelayReplicaPollsLate", "RelayConnectionPollsLate", "RelayGapSuspected", "RelayNotificationsWaiting",
				"RelayConnectionNotificationsWaiting",
			},
			shows: map[int]string{3: `(leeds|york|ripon|whitby): [1-9]`},
			leads: map[string]string{"RelayVendorCircuitOpen": `audatex_relay_vendor_circuit_open\{.*\} 1`,
				"RelayPollsLate": `"lastError":"[^"]+"`},
		},
		{
			name: "the vendor has another secret for the relay",
			inject: func() func() {
				h.rotated.Store(true)
				for _, grant := range h.grants {
					if err := h.sandbox.ExpireAccessTokens(grant); err != nil {
						h.t.Fatal(err)
					}
				}
				return func() { h.rotated.Store(false) }
			},
			fires: []string{"RelayPollsLate"}, may: []string{
				"RelayReplicaPollsLate", "RelayConnectionPollsLate", "RelayConnectionNotificationsWaiting",
			},
			leads: map[string]string{"RelayPollsLate": `the vendor refuses the relay's own client[^"]*`},
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
	const opened = `audatex_relay_callback_circuit_open\{.*callback=orders.*\} 1`
	following := []string{"RelayReceiverCircuitOpen", "RelayBacklogOld"}
	return []fault{
		{
			name: "a receiver answers 503", inject: h.answers("orders", http.StatusServiceUnavailable),
			fires: []string{"RelayReceiverFailing", "RelayReceiverCircuitOpen"}, may: following,
			shows: map[int]string{9: `orders acme .*failing_seconds: [1-9]`},
			leads: map[string]string{"RelayReceiverFailing": `"[a-zA-Z]*":503`, "RelayReceiverCircuitOpen": opened},
		},
		{
			name: "a receiver is dead",
			inject: func() func() {
				h.receivers["orders"].close()
				return h.receivers["orders"].open
			},
			fires: []string{"RelayReceiverFailing", "RelayReceiverCircuitOpen"}, may: following,
			leads: map[string]string{"RelayReceiverFailing": `connection refused`, "RelayReceiverCircuitOpen": opened},
		},
		{
			name: "a receiver's certificate ends in ten days", inject: secure(10 * 24 * time.Hour),
			fires: []string{"RelayReceiverCertificateExpires"},
			leads: map[string]string{"RelayReceiverCertificateExpires": `\{.*callback=secure.*\} 9\.\d+`},
		},
		{
			name: "a receiver's certificate has expired", inject: secure(-time.Hour),
			fires: []string{"RelayReceiverFailing"}, may: append(following, "RelayReceiverCertificateExpires"),
			leads: map[string]string{"RelayReceiverFailing": `certificate[^"]*expired`},
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
			leads: map[string]string{"RelayCallbackDisabled": `"disabledReason": ?"gone"`},
		},
		{
			name: "a receiver is slow, and takes one event at a time", inject: h.slow("stock"),
			fires: []string{"RelayBacklogOld", "RelayDeliverySLOBurnsFast"}, late: true,
			shows: map[int]string{7: `value: 0\.\d`},
			leads: map[string]string{
				"RelayBacklogOld":           `"medianSeconds":1(\.\d+)?`,
				"RelayDeliverySLOBurnsFast": `\{callback=stock, client=acme, job=relay\} [1-9]\d.*`,
			},
		},
		{
			name: "a receiver asks for less",
			inject: func() func() {
				h.receivers["stock"].busy.Store(true)
				return func() { h.receivers["stock"].busy.Store(false) }
			},
			fires: []string{"RelayCallbackCongested"},
			leads: map[string]string{
				"RelayCallbackCongested": `audatex_relay_callback_congested\{.*callback=stock.*\} 1`},
		},
	}
}

func (h *house) diskFaults(disk string) []fault {
	return []fault{
		{
			name: "the disk is nearly full", inject: func() func() { return fill(h.t.(*testing.T), disk, 8) },
			shows: map[int]string{2: `disk_free_bytes: [0-9.]+e\+07`}, fires: []string{"RelayDiskNearlyFull"},
			leads: map[string]string{"RelayDiskNearlyFull": `\{.*job=relay-small.*\} 0\.0\d+`},
		},
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
			leads: map[string]string{"RelayDiskNearlyFull": `\{.*job=relay-small.*\} 0(\.0\d+)?\b`,
				"RelayStoreFailing": `[^\n]*\bfull\b[^\n]*|audatex_relay_store_failing\{.*job=relay-small.*\} 1`},
			may: []string{
				"RelayReplicasMissing", "RelayShardWithoutOwner", "RelayPollsLate", "RelayConnectionPollsLate",
				"RelayNotificationsWaiting", "RelayConnectionNotificationsWaiting",
			},
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
			name: "a key ends in five days",
			inject: func() func() {
				var key struct{ ID string }
				h.api().Must(h.t, http.MethodPost, "/v1/clients/"+clientID+"/keys",
					map[string]any{"expiresAt": time.Now().Add(5 * 24 * time.Hour).UTC().Format(time.RFC3339)}, &key)
				h.madeLongAgo(cluster)
				return func() {
					h.api().Must(h.t, http.MethodDelete, "/v1/clients/"+clientID+"/keys/"+key.ID, nil, nil)
				}
			},
			fires: []string{"RelayAPIKeyExpires"},
			leads: map[string]string{"RelayAPIKeyExpires": `\{.*key=.*\} 4\.9\d*`},
		},
		{
			name: "two of three NATS servers are lost", inject: lose(0, 1), fires: []string{"RelayStoreFailing"},
			late:  true,
			holds: 45 * time.Second, shows: map[int]string{1: `value: [1-9]`}, // until the leases have ended
			leads: map[string]string{"RelayStoreFailing": `audatex_relay_store_failing\{.*job=relay-cluster.*\} 1`},
			may: []string{
				"RelayShardWithoutOwner", "RelayPollsLate", "RelayReplicaPollsLate", "RelayConnectionPollsLate",
				"RelayReplicasMissing", "RelayDeliverySlow", "RelayGapSuspected", "RelayDeliveryStopped",
				"RelayNotificationsWaiting", "RelayConnectionNotificationsWaiting",
			},
		},
		{
			name: "one of three replicas is killed",
			inject: func() func() {
				h.kill(2)
				return func() { h.run(2) }
			},
			fires: []string{"RelayNotScraped", "RelayReplicasMissing"}, late: true,
			may: []string{"RelayGapSuspected"}, // it may have died between sending and storing
			leads: map[string]string{
				"RelayNotScraped":      `up\{.*job=relay-cluster.*\} 0`,
				"RelayReplicasMissing": `audatex_relay_members\{.*job=relay-cluster.*\} 2`,
			},
		},
		{
			name: "a replica starts again and again",
			inject: func() func() {
				for range 5 {
					h.kill(2)
					h.run(2)
					pass(2 * time.Second) // each must be scraped
				}
				return func() {}
			},
			fires: []string{"RelayRestartsOften"}, late: true,
			may: []string{ // a lease lasts as long as ever, so its shards have no owner for long
				"RelayNotScraped", "RelayDoesNotStart", "RelayReplicasMissing", "RelayGapSuspected",
				"RelayShardWithoutOwner",
			},
			leads: map[string]string{"RelayRestartsOften": `\{instance=[^ ]*, job=relay-cluster\} [4-9]`},
		},
	}
}
