package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// rotation is some relays on one store whose tokens live for a second.
type rotation struct {
	*world
	relays []*harness.Process
	// required is how often each site was found in need of a consent, and given a new one.
	required map[string]int
	// spent is how many uses of a spent token each grant had seen at the last kill.
	spent map[string]int64
}

// TestRotatingTokensUnderKill9 kills relays with SIGKILL while refreshes are under way all the
// time. An interrupted refresh may have spent its token. Then the next use of it that is not
// interrupted as well ends the consent, which is reported. Nothing else ends one, and nothing gets
// stuck.
func TestRotatingTokensUnderKill9(t *testing.T) {
	t.Parallel()
	kills := 3
	if s := os.Getenv("RELAY_CRASH_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil || kills < 1 {
			t.Fatalf("RELAY_CRASH_KILLS=%q is not a number of kills", s)
		}
	}
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("replicas=%d", replicas), func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d, %d kills", seed, kills)
			r := &rotation{
				world:  newWorld(t, 6, sandbox.Config{Seed: seed, AccessTokenLifetime: time.Second}, nil),
				relays: make([]*harness.Process, replicas), required: map[string]int{}, spent: map[string]int64{},
			}
			slow := sandbox.Faults{ShareLatency: 1, Latency: 150 * time.Millisecond,
				Operations: []sandbox.Operation{sandbox.OpToken}}
			if err := r.sandbox.SetFaults(slow); err != nil {
				t.Fatal(err)
			}
			if replicas > 1 {
				nats := natstest.StartLimited(t, 8<<20)
				keys, err := store.NewKeys()
				if err != nil {
					t.Fatal(err)
				}
				delete(r.env, "RELAY_NATS_LISTEN")
				maps.Copy(r.env, map[string]string{
					"RELAY_NATS_URL": nats.URL(), "RELAY_STREAM_REPLICAS": "1", "RELAY_ENCRYPTION_KEYS": string(keys),
					"RELAY_AUDATEX_TIMEOUT": "2s",
				})
			}
			r.kills(t, rand.New(rand.NewPCG(seed, 3)), kills)
		})
	}
}

func (r *rotation) kills(t *testing.T, dice *rand.Rand, kills int) {
	for i := range r.relays {
		r.relays[i] = r.start()
	}
	r.connect()
	for range kills {
		<-time.After(time.Duration(300+dice.IntN(900)) * time.Millisecond)
		i := dice.IntN(len(r.relays))
		if err := r.relays[i].Cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.relays[i].ExitCode(t)
		r.client.CloseIdleConnections()
		<-time.After(time.Second) // what it has sent is counted by now
		r.checkSpent(t)
		killed := time.Now()
		r.relays[i] = r.start() // the API is called there from now on
		// A shard stays with the dead one until its lease is over: the next kill should hit one
		// that works.
		harness.Eventually(t, "half of the connections are polled again", func() string {
			r.consentAgain(t)
			polled := 0
			for _, c := range r.connections(t) {
				if c.LastPollAt.After(killed) {
					polled++
				}
			}
			if polled < len(r.sites)/2 {
				return fmt.Sprintf("%d are", polled)
			}
			return ""
		})
	}
	ended := time.Now()
	harness.Eventually(t, "every connection is polled again, or says why it needs a consent", func() string {
		for _, c := range r.connections(t) {
			if (c.State != "active" || !c.LastPollAt.After(ended)) &&
				(c.State != "consent-required" || c.ConsentRequiredSince.IsZero() || c.ConsentRequiredReason == "") {
				return fmt.Sprintf("%s is %s: %s", c.ID, c.State, c.LastError)
			}
		}
		return ""
	})
	harness.Eventually(t, "all of them are active again", func() string {
		r.consentAgain(t)
		for _, c := range r.connections(t) {
			if c.State != "active" || !c.LastPollAt.After(ended) {
				return fmt.Sprintf("%s is %s: %s", c.ID, c.State, c.LastError)
			}
		}
		return ""
	})
	harness.Eventually(t, "each end of a consent is told once, and that it is over", func() string {
		required, restored := r.told(t, relay.KindConsentRequired), r.told(t, relay.KindConsentRestored)
		for _, site := range r.sites {
			// A new consent that ended before it was known to work is over with the next one.
			if n := r.required[site]; required[site] != n || restored[site] > n || n > 0 && restored[site] == 0 {
				return fmt.Sprintf("%s: %d ends and %d times restored were told, %d new consents given",
					site, required[site], restored[site], n)
			}
		}
		return ""
	})
	r.checkSpent(t)
	counters := r.sandbox.Counters()
	refreshes := int64(0)
	for _, site := range r.sites {
		for i, id := range r.grants[site] {
			g := counters.Grants[id]
			refreshes += g.TokenRefreshes
			if last := i == len(r.grants[site])-1; last != (g.SpentRefreshTokens == 0) {
				t.Errorf("%s: consent %d of %d saw %d uses of a spent token",
					site, i+1, len(r.grants[site]), g.SpentRefreshTokens)
			}
			if g.RefreshesOverlapping > 0 {
				t.Errorf("%s: %d refreshes overlapped", site, g.RefreshesOverlapping)
			}
		}
	}
	t.Logf("%d refreshes, %d of spent tokens, %d lost answers, new consents %v",
		refreshes, counters.SpentRefreshTokens, counters.TokensLost, r.required)
	if least := int64(len(r.sites)); refreshes < least {
		t.Errorf("only %d refreshes", refreshes)
	}
	for _, p := range r.relays {
		if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	for _, p := range r.relays {
		if code := p.ExitCode(t); code != 0 {
			t.Errorf("exit code %d after SIGTERM", code)
		}
	}
}

// checkSpent fails if a grant saw more than one use of a spent token since the last kill. A kill may
// interrupt the refused refresh as well; nothing but a kill permits the next one.
func (r *rotation) checkSpent(t *testing.T) {
	t.Helper()
	for id, g := range r.sandbox.Counters().Grants {
		if n := g.SpentRefreshTokens - r.spent[id]; n > 1 {
			t.Errorf("grant %s saw %d uses of a spent token between two kills", id, n)
		}
		r.spent[id] = g.SpentRefreshTokens
	}
}

// told counts the operational events of a kind, by connection.
func (r *rotation) told(t *testing.T, kind relay.Kind) map[string]int {
	t.Helper()
	var events struct{ Items []struct{ Subject string } }
	r.api().Must(t, http.MethodGet, "/v1/events?limit=1000&types="+relay.OperationalPrefix+string(kind), nil, &events)
	many := map[string]int{}
	for _, e := range events.Items {
		many[e.Subject]++
	}
	return many
}

// connectionState is what the API returns of a connection.
type connectionState struct {
	ID, State, LastError  string
	LastPollAt            time.Time
	ConsentRequiredSince  time.Time
	ConsentRequiredReason string
}

func (r *rotation) connections(t *testing.T) []connectionState {
	t.Helper()
	all, err := harness.Items[connectionState](r.api(), "/v1/connections")
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b connectionState) int {
		return slices.Index(r.sites, a.ID) - slices.Index(r.sites, b.ID)
	})
	return all
}

// consentAgain gives a new refresh token to every connection that is reported to need a consent.
func (r *rotation) consentAgain(t *testing.T) {
	t.Helper()
	for _, c := range r.connections(t) {
		if c.State != "consent-required" {
			continue
		}
		if r.told(t, relay.KindConsentRequired)[c.ID] <= r.required[c.ID] {
			continue // its owner has yet to report it
		}
		token, err := r.grant(c.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.api().Must(t, http.MethodPatch, "/v1/connections/"+c.ID, map[string]any{"refreshToken": token}, nil)
		r.required[c.ID]++
	}
}
