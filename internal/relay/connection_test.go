package relay

import "testing"

// What is written in a table of sites maps in any case; what is not there belongs to the
// connection's own site.
func TestSiteOfAVendorSite(t *testing.T) {
	t.Parallel()
	c := Connection{Site: "rest", Sites: map[string]string{"4711": "leeds", "gb12": "york"}}
	for vendor, want := range map[string]string{"4711": "leeds", "gb12": "york", "GB12": "york", "4712": "rest",
		"": "rest"} {
		if got := c.SiteOf(vendor); got != want {
			t.Errorf("%q belongs to %q, want %q", vendor, got, want)
		}
	}
	if site, ok := c.Mapped("4712"); ok {
		t.Errorf("4712 is mapped to %q", site)
	}
}
