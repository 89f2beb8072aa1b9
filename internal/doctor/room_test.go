package doctor

import "testing"

// The rule for room is that of the alert RelayDiskNearlyFull.
func TestScarceRoom(t *testing.T) {
	t.Parallel()
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		free, total uint64
		scarce      bool
	}{
		{190 * gib, 2000 * gib, false}, {9 * gib, 100 * gib, true}, {11 * gib, 100 * gib, false},
		{2 * gib, 10 * gib, false},
		{500 * mib, gib, false}, {200 * mib, gib, true}, {0, gib, true}, {900 * mib, 2 * gib, false},
	} {
		if got := scarce(c.free, c.total); got != c.scarce {
			t.Errorf("%s free of %s: scarce is %t", bytesOf(c.free), bytesOf(c.total), got)
		}
	}
}
