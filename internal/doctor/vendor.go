package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
)

// skewAt is how far two clocks may differ. An access token lives for half an hour, and a signed callback is refused by
// receivers after five minutes.
const skewAt = 30 * time.Second

// vendor reaches the vendor's hosts. Nothing is asked there with a token.
func (d *Doctor) vendor(ctx context.Context) []Check {
	var found []Check
	for _, address := range d.c.VendorHosts {
		if err := d.c.VendorTurn(ctx); err != nil {
			return append(found, Unknown(Vendor, "", "there was no place in the vendor's request budget: %v", err))
		}
		found = append(found, ReachVendor(ctx, address)...)
	}
	return found
}

// ReachVendor reaches the host of an address of the vendor, and compares the clocks.
func ReachVendor(ctx context.Context, address string) []Check {
	r := audatex.Reach(ctx, address)
	if r.Err != nil {
		return []Check{Wrong(Vendor, r.Host, "it cannot be reached: "+printable(r.Err.Error()),
			"look at name, network and proxy between here and there; docs/operations.md explains failures of TLS")}
	}
	found := []Check{ok(Vendor, r.Host, "it can be reached (%s)", r.Protocol)}
	switch {
	case r.Date.IsZero():
		found = append(found, Unknown(Vendor, "clock", "%s does not say what time it is", r.Host))
	case r.Skew.Abs() > skewAt:
		found = append(found, Wrong(Vendor, "clock",
			fmt.Sprintf("this machine's clock and that of %s differ by %s", r.Host, r.Skew.Abs().Round(time.Second)),
			"synchronise this machine's clock; if it is right, tell the vendor"))
	default:
		found = append(found, ok(Vendor, "clock", "it agrees with the clock of %s", r.Host))
	}
	return found
}
