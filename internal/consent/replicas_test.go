package consent

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// three replicas behind a round robin.
func threeReplicas(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.start()
	w.start()
	w.account("4711")
	return w
}

// The way back, loaded eight times at once and again afterwards, on three replicas: one exchange,
// one result.
func TestTheWayBackLoadedManyTimesAtOnce(t *testing.T) {
	t.Parallel()
	w := threeReplicas(t)
	c := w.connection("con-a", "4711")
	made := w.link(NewLink{Connection: c})
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	pages := make([]shown, 8)
	var all sync.WaitGroup
	for i := range pages {
		all.Go(func() {
			if i%4 == 3 {
				b.send(http.MethodHead, back, nil)
			}
			pages[i] = b.finish(back)
		})
	}
	all.Wait()
	for i, page := range append(pages, b.finish(back)) {
		if page.title() != "Connected: site-4711 (Audatex site 4711)" {
			t.Errorf("page %d: %d %s", i, page.status, page.title())
		}
	}
	counters := w.box.Counters()
	if counters.CodesExchanged != 1 || counters.CodesReused != 0 {
		t.Errorf("%d codes were exchanged, %d used again", counters.CodesExchanged, counters.CodesReused)
	}
	w.usable(c)
}

// One link is open in two tabs, on three replicas. One consent is enough, and the other tab shows
// that.
func TestTwoTabsAtOnce(t *testing.T) {
	t.Parallel()
	w := threeReplicas(t)
	for _, slow := range []bool{false, true} {
		c := w.connection(map[bool]string{false: "con-a", true: "con-b"}[slow], "4711")
		made := w.link(NewLink{Connection: c})
		tabs := []*browser{w.browser(), w.browser()}
		backs := []string{tabs[0].toVendor(made.URL, "4711"), tabs[1].toVendor(made.URL, "4711")}
		if slow {
			if err := w.box.SetFaults(sandbox.Faults{ShareLatency: 1, Latency: 300 * time.Millisecond,
				Operations: []sandbox.Operation{sandbox.OpToken}}); err != nil {
				t.Fatal(err)
			}
		}
		before := w.box.Counters().CodesExchanged
		results := make([]shown, 2)
		var both sync.WaitGroup
		for i := range tabs {
			both.Go(func() { results[i] = tabs[i].finish(backs[i]) })
		}
		both.Wait()
		titles := results[0].title() + " / " + results[1].title()
		if strings.Count(titles, "Connected: ") != 1 || strings.Count(titles, "Consent had been given already") != 1 {
			t.Errorf("the tabs show %s", titles)
		}
		if n := w.box.Counters().CodesExchanged - before; n != 1 {
			t.Errorf("%d codes were exchanged", n)
		}
		w.usable(c)
	}
}

// Of two tabs the one whose consent comes to nothing does not keep the other from succeeding.
func TestTheOtherTabSucceeds(t *testing.T) {
	t.Parallel()
	w := threeReplicas(t)
	w.account("4712")
	c := w.connection("con-a", "4711")
	made := w.link(NewLink{Connection: c})
	wrong, right := w.browser(), w.browser()
	wrongBack, rightBack := wrong.toVendor(made.URL, "4712"), right.toVendor(made.URL, "4711")
	var both sync.WaitGroup
	both.Go(func() {
		if page := wrong.finish(wrongBack); page.title() != "You logged in for another site" &&
			page.title() != "Consent had been given already" {
			t.Errorf("the wrong tab: %s", page.title())
		}
	})
	both.Go(func() {
		if page := right.finish(rightBack); !strings.HasPrefix(page.title(), "Connected") {
			t.Errorf("the right tab: %s", page.title())
		}
	})
	both.Wait()
	w.usable(c)
}

// Two links of one connection at once: both may succeed, and the tokens of the later consent are
// those in use.
func TestTwoLinksAtOnce(t *testing.T) {
	t.Parallel()
	w := threeReplicas(t)
	c := w.connection("con-a", "4711")
	var both sync.WaitGroup
	for range 2 {
		made, b := w.link(NewLink{Connection: c}), w.browser()
		back := b.toVendor(made.URL, "4711")
		both.Go(func() {
			if page := b.finish(back); !strings.HasPrefix(page.title(), "Connected") &&
				page.title() != "Consent had been given already" {
				t.Errorf("%s", page.title())
			}
		})
	}
	both.Wait()
	w.usable(c)
}

// A consent and a refresh of the tokens before it, at once: neither loses to the other, and the new
// tokens are those in use.
func TestAConsentAndARefreshAtOnce(t *testing.T) {
	t.Parallel()
	w := threeReplicas(t)
	for round := range 4 {
		c := w.connection("con-"+string(rune('a'+round)), "4711")
		old := w.before(c)
		made := w.link(NewLink{Connection: c})
		b := w.browser()
		back := b.toVendor(made.URL, "4711")
		// The refresh is announced before the consent comes, and answered after it was put to use;
		// or the other way round.
		slow := sandbox.Faults{ShareLatency: 1, Latency: 200 * time.Millisecond,
			Operations: []sandbox.Operation{sandbox.OpToken}}
		if round%2 == 1 {
			slow.Operations = []sandbox.Operation{sandbox.OpWhoami}
		}
		if err := w.box.SetFaults(slow); err != nil {
			t.Fatal(err)
		}
		owner := w.any()
		var both sync.WaitGroup
		both.Go(func() {
			for range 3 {
				_, _ = owner.c.Tokens.Access(t.Context(), c.ID)
				owner.c.Tokens.Invalidate(c.ID, w.token(c.ID).AccessToken)
			}
		})
		result := b.finish(back)
		both.Wait()
		if !strings.HasPrefix(result.title(), "Connected") {
			t.Errorf("round %d: %s", round, result.title())
		}
		if rec := w.token(c.ID); rec.RefreshToken.Equal(old) || rec.ConsentID != w.stored(made.ID).Attempts[0].ID {
			t.Errorf("round %d: the record is of consent %q", round, rec.ConsentID)
		}
		if err := w.box.SetFaults(); err != nil {
			t.Fatal(err)
		}
		w.usable(c)
	}
	if spent := w.box.Counters().SpentRefreshTokens; spent != 0 {
		t.Errorf("%d spent refresh tokens were used", spent)
	}
}

// A replica that dies is not waited for longer than its work may take.
func TestAnotherReplicaGoesOn(t *testing.T) {
	t.Parallel()
	w := threeReplicas(t)
	c := w.connection("con-a", "4711")
	made := w.link(NewLink{Connection: c})
	b := w.browser()
	back := b.toVendor(made.URL, "4711")
	dying := w.next()
	w.mu.Lock()
	w.turn += 2 // it is its turn again
	w.mu.Unlock()
	crashed := dying.crash(3, false) // the tokens are pending
	if at := b.get(back); at.status != http.StatusSeeOther {
		t.Fatalf("%d %s", at.status, at.title())
	}
	eventually(t, crashed)
	dying.stop()
	w.remove(dying)
	if l := w.stored(made.ID); l.Attempts[0].Phase != relay.ConsentPending {
		t.Fatalf("%+v", l.Attempts[0])
	}
	w.edit(made.ID, func(l *relay.ConsentLink) { l.Attempts[0].Deadline = time.Now() }) // that time is over
	if result := b.finish(back); !strings.HasPrefix(result.title(), "Connected") {
		t.Errorf("%d %s", result.status, result.title())
	}
	w.usable(c)
}
