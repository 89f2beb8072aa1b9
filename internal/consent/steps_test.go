package consent

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/relay"
)

// Any steps by any number of processes, in any order and taken twice: a state is used up once, one
// exchange is under way at a time, an attempt that has ended stays so (but for one that was wrongly
// taken for interrupted), no ended attempt holds a secret, and the link is used if and only if a
// consent has succeeded.
func TestStepsInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_700_000_000, 0).UTC()
		l := relay.ConsentLink{ExpiresAt: now.Add(relay.ConsentLinkLife)}
		exchanges := map[string]map[string]bool{} // workers that may exchange, by attempt
		ids := []string{"a", "b", "c"}
		attempt := rapid.SampledFrom(ids)
		worker := rapid.SampledFrom([]string{"p.1", "p.2", "q.1", "q.2"})
		succeeded := false
		check := func() {
			open, busy := 0, 0
			for _, a := range l.Attempts {
				if openAttempt(a, now) {
					open++
				}
				if working(a) && !overdue(a, now) {
					busy++
				}
				if a.Phase == relay.ConsentDone && (a.Sealed != nil || a.Result == nil) {
					t.Fatalf("ended with a secret or without a result: %+v", a)
				}
			}
			if open > relay.MaxOpenConsents || len(l.Attempts) > maxAttempts {
				t.Fatalf("%d open, %d in all", open, len(l.Attempts))
			}
			if succeeded != (l.UsedAt != nil) {
				t.Fatalf("succeeded %v, used %v", succeeded, l.UsedAt)
			}
			for id, workers := range exchanges {
				if len(workers) > 1 {
					t.Fatalf("attempt %s was claimed by %v", id, workers)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"begin": func(t *rapid.T) {
				id := attempt.Draw(t, "attempt")
				begin(&l,
					relay.ConsentAttempt{ID: id, StartedAt: now, Phase: relay.ConsentStarted, Sealed: []byte("v")}, now)
			},
			"claim": func(t *rapid.T) {
				id, w := attempt.Draw(t, "attempt"), worker.Draw(t, "worker")
				others := slices.ContainsFunc(l.Attempts,
					func(a relay.ConsentAttempt) bool { return a.ID != id && working(a) && !overdue(a, now) })
				outcome, changed := claim(&l, id, w, now, time.Minute)
				if outcome == claimTaken {
					if changed && others {
						t.Fatal("two exchanges of a link at once")
					}
					if changed || exchanges[id] == nil {
						if exchanges[id] == nil {
							exchanges[id] = map[string]bool{}
						}
						exchanges[id][w] = true
					}
					if again, twice := claim(&l, id, w, now, time.Minute); again != claimTaken || twice {
						t.Fatalf("taken twice: %v %v", again, twice)
					}
				}
			},
			"keep": func(t *rapid.T) {
				id, w := attempt.Draw(t, "attempt"), worker.Draw(t, "worker")
				if !exchanges[id][w] { // only who has claimed exchanges
					return
				}
				before := find(&l, id)
				ended := before != nil && before.Phase == relay.ConsentDone &&
					before.Result.Outcome != relay.ConsentInterrupted
				if kept, _ := keep(&l, id, w, granted{sealed: []byte("pair")}, now); kept &&
					(ended || l.UsedAt != nil && before.Phase == relay.ConsentDone) {
					t.Fatal("tokens were kept after the end")
				}
			},
			"takeOver": func(t *rapid.T) {
				id, w := attempt.Draw(t, "attempt"), worker.Draw(t, "worker")
				dead := func(other string) bool {
					return strings.HasPrefix(other, "q.") && rapid.Bool().Draw(t, "dead")
				}
				takeOver(&l, id, w, now, dead)
			},
			"end": func(t *rapid.T) {
				a := find(&l, attempt.Draw(t, "attempt"))
				if a == nil || !working(*a) {
					return
				}
				outcome := rapid.SampledFrom([]relay.ConsentOutcome{relay.ConsentConnected, relay.ConsentUnchecked,
					relay.ConsentWrongSite, relay.ConsentAlready}).Draw(t, "outcome")
				if a.Phase == relay.ConsentExchanging {
					outcome = relay.ConsentVendor
				}
				if end(&l, a.ID, relay.ConsentResult{Outcome: outcome, At: now}) && outcome.Succeeded() {
					succeeded = true
				}
			},
			"refuse": func(t *rapid.T) {
				refuse(&l, attempt.Draw(t, "attempt"), relay.ConsentResult{Outcome: relay.ConsentDenied, At: now})
			},
			"tidy":     func(*rapid.T) { tidy(&l, now) },
			"withdraw": func(*rapid.T) { at := now; l.WithdrawnAt = &at },
			"time": func(t *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 31 * time.Minute}).Draw(t,
					"passes"))
			},
		})
	})
}

// A process that comes back with tokens after all, although its exchange was taken for interrupted,
// has them used; unless another consent has succeeded since.
func TestTokensThatComeLate(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	for _, used := range []bool{false, true} {
		l := relay.ConsentLink{ExpiresAt: now.Add(time.Hour)}
		begin(&l, relay.ConsentAttempt{ID: "a", StartedAt: now, Phase: relay.ConsentStarted}, now)
		if outcome, _ := claim(&l, "a", "p.1", now, time.Minute); outcome != claimTaken {
			t.Fatal(outcome)
		}
		later := now.Add(time.Minute)
		if takeOver(&l, "a", "q.1", now.Add(time.Second), func(string) bool { return false }) ||
			!takeOver(&l, "a", "q.1", later, func(string) bool { return false }) {
			t.Fatal("taken over too early, or not at all")
		}
		if used {
			l.UsedAt = &later
		}
		if kept, _ := keep(&l, "a", "q.1", granted{}, later); kept {
			t.Error("whoever took it over keeps tokens that it has not got")
		}
		if kept, _ := keep(&l, "a", "p.1", granted{sealed: []byte("pair")}, later); kept == used {
			t.Errorf("used %v, kept %v", used, kept)
		}
	}
}

// Secrets of attempts that can no longer be ended are forgotten, and in the end the attempts as
// well.
func TestTidying(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	l := relay.ConsentLink{Attempts: []relay.ConsentAttempt{
		{ID: "open", StartedAt: now.Add(-time.Minute), Phase: relay.ConsentStarted, Sealed: []byte("v")},
		{ID: "late", StartedAt: now.Add(-relay.ConsentAttemptLife), Phase: relay.ConsentStarted, Sealed: []byte("v")},
		{ID: "old", StartedAt: now.Add(-attemptsKept - time.Second), Phase: relay.ConsentDone,
			Result: &relay.ConsentResult{}},
		{ID: "old and pending", StartedAt: now.Add(-attemptsKept - time.Second), Phase: relay.ConsentPending,
			Sealed: []byte("pair")},
	}}
	if !tidy(&l, now) || tidy(&l, now) {
		t.Error("tidied twice, or not at all")
	}
	if len(l.Attempts) != 3 || l.Attempts[0].Sealed == nil || l.Attempts[1].Sealed != nil ||
		l.Attempts[2].Sealed == nil {
		t.Errorf("left: %+v", l.Attempts)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	wanted := []string{"BMS.Basic", "BMS.PartsOrders", "ReferenceData.Company"}
	for _, tt := range []struct {
		got     []string
		missing string
		site    bool
	}{
		{nil, "", true},
		{[]string{"BMS.Basic", "BMS.PartsOrders"}, "", false},
		{[]string{"bms.basic", "BMS.PartOrders", "referencedata.company"}, "", true},
		{[]string{"BMS.Basic", "ReferenceData.Company"}, "BMS.PartsOrders", true},
		{[]string{"x"}, "BMS.Basic BMS.PartsOrders", false},
	} {
		missing, site := missingScopes(wanted, tt.got, "ReferenceData.Company")
		if strings.Join(missing, " ") != tt.missing || site != tt.site {
			t.Errorf("%v: missing %v, site %v", tt.got, missing, site)
		}
	}
	if _, site := missingScopes(wanted[:2], nil, "ReferenceData.Company"); site {
		t.Error("the vendor is asked for the site without having been asked for the scope")
	}
}

func FuzzCredential(f *testing.F) {
	token := newSecret()
	f.Add(token)
	f.Add(newState(linkID(token)))
	f.Add(token + ".")
	f.Add("." + linkID(token))
	f.Add(strings.ToUpper(newState(linkID(token))))
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := readCredential(text)
		if !ok {
			return
		}
		secret, _, _ := strings.Cut(text, ".")
		b, err := base64.RawURLEncoding.DecodeString(secret)
		if err != nil || len(b) != TokenBytes || base64.RawURLEncoding.EncodeToString(b) != secret {
			t.Errorf("%q passes", text)
		}
		if len(c.link) != 2*idBytes || (c.token == "") == (c.attempt == "") || strings.ContainsAny(c.link, ".>* ") {
			t.Errorf("%q is read as %+v", text, c)
		}
	})
}
