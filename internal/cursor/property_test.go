package cursor

import (
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// TestSimulation is the property: whatever readers, receivers, clocks and stores do, order is kept, nothing is lost,
// and nothing is repeated but for a crash.
func TestSimulation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }
		if _, err := simulate(draw, rapid.IntRange(1, 200).Draw(t, "steps"), none); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSimulationLong runs longer lives than rapid draws, and sees to it that they meet what is rare.
func TestSimulationLong(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for seed := range uint64(50) {
		got, err := simulate(rand.New(rand.NewPCG(seed, 1)).IntN, 1000, none)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k, n := range got {
			seen[k] += n
		}
	}
	for _, k := range []string{"full", "probe", "congested", "repeat", "exhausted", "skip", "skip unlisted", "expired", "expired unlisted", "refill",
		"crash in store", "failed store", "lanes", "over", "open lane", "clock back"} {
		if seen[k] < 5 {
			t.Errorf("%q was met %d times: the simulation says too little about it", k, seen[k])
		}
	}
	t.Log(seen)
}

// TestCheckerChecks does one thing wrong around the cursor at a time and wants the simulation to notice, and by the
// right check.
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
			}
			found := 0
			for _, k := range tc.kinds {
				found += kinds[k]
			}
			if found == 0 {
				t.Errorf("not noticed in 20 runs as %v: %v", tc.kinds, kinds)
			}
			t.Logf("%v", kinds)
		})
	}
}
