package capacity

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Whatever clients and callbacks do: there are never more attempts than slots, the books are right, nobody who may have
// a slot waits, and no client is kept from its guaranteed part while there are free slots.
func TestSlotsHoldTheirInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := NewSlots(rapid.IntRange(1, 40).Draw(t, "limit"))
		var all []*Allowance
		used := map[*Allowance]int{} // attempts that the callback believes it has under way
		woken := make(chan *Allowance, 10_000)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 10).Draw(t, "op"); {
			case op == 0 || len(all) == 0:
				client, n := fmt.Sprint("client", rapid.IntRange(0, 4).Draw(t, "client")),
					rapid.IntRange(0, 8).Draw(t, "callback")
				var a *Allowance
				a = p.Join(client, fmt.Sprint(client, " ", n%3), func() { woken <- a })
				all = append(all, a)
			case op == 1:
				i := rapid.IntRange(0, len(all)-1).Draw(t, "leaves")
				a := all[i]
				for ; used[a] > 0; used[a]-- {
					a.Release()
				}
				a.Leave()
				a.Leave()
				all = append(all[:i:i], all[i+1:]...)
			case op <= 5:
				a := rapid.SampledFrom(all).Draw(t, "takes")
				if a.TryTake() || a.Take() {
					used[a]++
				}
			case op <= 8:
				if a := rapid.SampledFrom(all).Draw(t, "ends"); used[a] > 0 {
					used[a]--
					a.Release()
				}
			case op == 9:
				rapid.SampledFrom(all).Draw(t, "declines").Decline()
			default:
				rapid.SampledFrom(all).Draw(t, "bounds").SetLimits(rapid.IntRange(0, 4).Draw(t, "concurrency"),
					rapid.IntRange(0, 3).Draw(t, "most"), 0)
			}
			p.check(t, all, used)
		}
	})
}

func (p *Slots) check(t *rapid.T, all []*Allowance, used map[*Allowance]int) {
	taken, beyond, perClient := 0, 0, map[string]int{}
	for _, a := range all {
		want := used[a]
		if a.granted {
			want++
		}
		if a.taken != want {
			t.Fatalf("a callback is booked with %d slots and has %d", a.taken, want)
		}
		if a.granted && a.waits {
			t.Fatal("a callback was handed a slot and waits")
		}
		taken += a.taken
		perClient[a.client.id] += a.taken
	}
	for _, cb := range p.callbacks {
		count := 0
		for _, a := range all {
			if a.callback == cb {
				count += a.taken
			}
		}
		if cb.taken != count {
			t.Fatalf("a callback is booked with %d slots and has %d", cb.taken, count)
		}
	}
	for id, c := range p.clients {
		if c.taken != perClient[id] {
			t.Fatalf("client %s is booked with %d slots and has %d", id, c.taken, perClient[id])
		}
		beyond += max(c.taken-p.guaranteed, 0)
		for _, a := range c.waiting {
			if p.allows(a) {
				t.Fatalf("a callback of %s waits and may have a slot: %d of %d are taken", id, p.taken, p.limit)
			}
		}
		if c.taken < p.guaranteed && p.taken < p.limit && p.available(c) < 1 {
			t.Fatalf("%s has %d of its %d and may take none", id, c.taken, p.guaranteed)
		}
	}
	if p.taken != taken || p.aboveGuaranteed != beyond || taken > p.limit {
		t.Fatalf("booked %d and %d beyond, there are %d and %d of %d",
			p.taken, p.aboveGuaranteed, taken, beyond, p.limit)
	}
}

// takeAll takes as many slots as there are for callbacks of a client, in turns, and waits for one more each.
func takeAll(p *Slots, client string, callbacks, each int) (list []*Allowance, taken int) {
	for range callbacks {
		list = append(list, p.Join(client, "", func() {}))
	}
	for _, a := range list {
		for range each {
			if !a.Take() {
				break
			}
			taken++
		}
	}
	return list, taken
}

// Several clients whose receivers all hang leave every other client its part, at once; also one that nobody knew of.
func TestHangingClientsLeaveOthersTheirPart(t *testing.T) {
	t.Parallel()
	const hostile = 6
	for _, limit := range []int{70, 270, 2000} {
		p := NewSlots(limit)
		healthy := p.Join("healthy", "", func() {})
		for n := range hostile {
			p.Join(fmt.Sprint("hostile", n), "", func() {})
		}
		for n := range hostile {
			takeAll(p, fmt.Sprint("hostile", n), 40, 32)
		}
		later := p.Join("later", "", func() {})
		got := 0
		for healthy.TryTake() {
			got++
		}
		if least := limit / (2 * (hostile + 2)); got < least*3/4 {
			t.Errorf("of %d slots a client gets %d beside six that hang, %d are its own", limit, got, least)
		}
		if !later.TryTake() {
			t.Errorf("of %d slots a client that comes later gets none", limit)
		}
	}
}

// Who waits gets the next free slot before anybody who has more, and a callback that works fast keeps going beside
// others of its client that hang.
func TestFreedPlacesGoToWhoHasFewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewSlots(16)
		hanging, taken := takeAll(p, "hostile", 3, 32)
		woken := 0
		starved := p.Join("hostile", "", func() { woken++ })
		if starved.Take() { // others of its client wait as well, and have more
			t.Fatal("the client could have more")
		}
		hog := hanging[0]
		for _, a := range hanging {
			if a.taken > hog.taken {
				hog = a
			}
		}
		for !starved.TryTake() && !starved.Take() && hog.taken > 0 {
			hog.Release()
			synctest.Wait()
		}
		if starved.taken != 1 {
			t.Fatalf("of %d slots given back the callback without any gets %d, woken %d times",
				taken, starved.taken, woken)
		}
		for i := range 100 { // it has work without end: at each end of an attempt it is the one with the fewest
			starved.Release()
			if !starved.TryTake() && !starved.Take() {
				synctest.Wait()
				if !starved.TryTake() {
					t.Fatalf("after %d attempts its slot went to one that hangs", i)
				}
			}
		}
	})
}

func TestOneClientAloneLeavesSomeForTheNext(t *testing.T) {
	t.Parallel()
	p := NewSlots(100)
	if _, taken := takeAll(p, "first", 1, 1000); taken < 30 {
		t.Errorf("one callback alone gets %d of 100", taken)
	}
	if _, taken := takeAll(p, "second", 1, 1000); taken < 15 {
		t.Errorf("the next gets %d of 100", taken)
	}
}

// A replay shares a callback's concurrency with its deliveries: together they have no more, neither keeps the other
// out.
func TestReadersOfACallbackShareItsConcurrency(t *testing.T) {
	t.Parallel()
	p := NewSlots(1000)
	woken := 0
	live, replay := p.Join("shop", "cb", func() { woken++ }), p.Join("shop", "cb", func() { woken++ })
	live.SetLimits(4, 4, 0)
	replay.SetLimits(4, 1, 0)
	if !replay.Take() || replay.TryTake() {
		t.Fatal("a replay has one slot of its own")
	}
	for n := range 3 {
		if !live.Take() {
			t.Fatalf("deliveries have %d of 4 beside a replay of one", n)
		}
	}
	if live.Take() {
		t.Fatal("five attempts are under way of four")
	}
	if p.Waiting() != 1 || p.Starved() != 0 {
		t.Fatalf("%d wait, %d of them for others; it is at its own bound", p.Waiting(), p.Starved())
	}
	replay.Release()
	if woken != 1 || !live.Take() || replay.Take() {
		t.Fatalf("the slot that a replay gave back went to nobody who waited (%d woken)", woken)
	}
	live.Release()
	if woken != 2 || live.Take() || !replay.Take() {
		t.Fatalf("the slot that a delivery gave back went past the replay that waited (%d woken)", woken)
	}
}

// Of two readers that both find the rate free only one uses it.
func TestOneOfTwoReadersUsesTheRate(t *testing.T) {
	t.Parallel()
	p, now := NewSlots(10), time.Now()
	live, replay := p.Join("shop", "cb", func() {}), p.Join("shop", "cb", func() {})
	live.SetLimits(4, 4, 1)
	replay.SetLimits(4, 1, 1)
	if live.RateWait(now) != 0 || replay.RateWait(now) != 0 {
		t.Fatal("the rate is not free")
	}
	if !live.UseRate(now) || replay.UseRate(now) || replay.RateWait(now) == 0 {
		t.Error("the rate is used twice, or by nobody")
	}
}
