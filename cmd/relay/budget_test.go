package main

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestTheReplicasPartsAreTheWholeAllowance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := float64(rapid.IntRange(1, 100_000).Draw(t, "rate"))
		own := rapid.SliceOfN(rapid.IntRange(0, 5_000), 1, 100).Draw(t, "connections of each replica")
		all := 0
		for _, n := range own {
			all += n
		}
		sum := 0.0
		for _, n := range own {
			part := allowance(rate, n, all, len(own))
			if part <= 0 {
				t.Fatalf("a replica may not ask at all")
			}
			sum += part
		}
		if math.Abs(sum-rate) > rate/1e9 {
			t.Fatalf("the parts are %f of %f", sum, rate)
		}
	})
}
