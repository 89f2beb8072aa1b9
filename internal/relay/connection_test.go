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

// The consent of one site is of one site, also where a notification names none. Nothing else shows
// which of several it is, and what names another is not of this one.
func TestSiteOfANotificationThatNamesNone(t *testing.T) {
	t.Parallel()
	one, two := map[string]string{"4711": "leeds"}, map[string]string{"4711": "leeds", "gb12": "york"}
	for _, c := range []struct {
		Connection
		vendor, want string
	}{
		{Connection{Level: LevelSite, Sites: one}, "", "leeds"},
		{Connection{Level: LevelSite, Sites: one}, "9999", ""},
		{Connection{Level: LevelSite, Sites: map[string]string{"4711": "leeds", "4711-b": "leeds"}}, "", "leeds"},
		{Connection{Level: LevelSite, Sites: two}, "", ""},
		{Connection{Level: LevelSite, Site: "rest", Sites: one}, "", "rest"},
		{Connection{Level: LevelCompany, Sites: one}, "", ""},
		{Connection{Level: LevelUser, Sites: one}, "", ""},
	} {
		if got := c.SiteOf(c.vendor); got != c.want {
			t.Errorf("%+v: %q belongs to %q, want %q", c.Connection, c.vendor, got, c.want)
		}
	}
}
