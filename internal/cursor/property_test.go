package cursor

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// long returns how often the simulation runs: a few times, or as often as .ci/full asks for.
func long(few int) int {
	n, err := strconv.Atoi(os.Getenv("RELAY_CRASH_KILLS"))
	if err != nil {
		return few
	}
	return max(n, few)
}

// TestMain makes rapid do no more checks than that; the flag -rapid.checks goes before it.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", strconv.Itoa(long(20))); err != nil {
		panic(err)
	}
	m.Run()
}

// TestSimulation checks the main property: with any readers, receivers, clocks and stores the order
// is kept, nothing is lost, and nothing is repeated except after a crash.
func TestSimulation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }
		if _, err := simulate(draw, rapid.IntRange(1, 200).Draw(t, "steps"), none); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSimulationLong runs longer lives than rapid draws, until they have met what is rare.
func TestSimulationLong(t *testing.T) {
	t.Parallel()
	const most = 60
	rare := []string{"full", "probe", "congested", "repeat", "exhausted", "skip", "skip unlisted", "expired",
		"expired unlisted", "refill", "failing",
		"crash in store", "failed store", "lanes", "over", "open lane", "clock back"}
	seen := map[string]int{}
	unmet := func(k string) bool { return seen[k] < 5 }
	soon := []uint64{296, 147, 25} // these meet it all
	for life := 0; life < long(1) || slices.ContainsFunc(rare, unmet) && life < most; life++ {
		seed := uint64(life)
		if life < len(soon) {
			seed = soon[life]
		}
		got, err := simulate(rand.New(rand.NewPCG(seed, 1)).IntN, 1000, none)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k, n := range got {
			seen[k] += n
		}
	}
	for _, k := range rare {
		if unmet(k) {
			t.Errorf("%q was met %d times: the simulation says too little about it", k, seen[k])
		}
	}
	t.Log(seen)
}

// TestCheckerChecks does one thing wrong around the cursor at a time and wants the simulation to
// notice, and by the right check.
func TestCheckerChecks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault fault
		kinds []string
	}{
		"lanes are not put":              {lanesNotPut, []string{"lost"}},
		"done ranges are forgotten":      {doneForgotten, []string{"repeat"}},
		"the order is not the order":     {orderSplit, []string{"order"}},
		"nothing stored is acknowledged": {ackedUnstored, []string{"repeat", "lost"}},
		"a refill finds nothing":         {refillEmpty, []string{"lost"}},
		"a refusal is ignored":           {refusalIgnored, []string{"lost", "stuck"}},
		"lanes are never removed":        {lanesNotRemoved, []string{"repeat", "bounds", "stuck"}},
		"the document goes first":        {documentFirst, []string{"lost"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kinds := map[string]int{}
			for seed := range uint64(20) {
				_, err := simulate(rand.New(rand.NewPCG(seed, 2)).IntN, 600, tc.fault)
				var v violation
				if errors.As(err, &v) {
					kinds[v.kind]++
				}
				if slices.Contains(tc.kinds, v.kind) {
					return
				}
			}
			t.Errorf("not noticed in 20 runs as %v: %v", tc.kinds, kinds)
		})
	}
}
