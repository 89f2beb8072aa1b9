package access_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/relay"
)

// Only keys that expire soon, or just have, are shown, by the replica that owns their client.
func TestExpiringKeys(t *testing.T) {
	t.Parallel()
	k := access.New(access.Config{Log: slog.New(slog.DiscardHandler)})
	now := time.Now()
	const day = 24 * time.Hour
	want := 0
	for id, key := range map[string]struct {
		life, left time.Duration
		shown      bool
	}{
		"soon":                 {life: 365 * day, left: 29 * day, shown: true},
		"far":                  {life: 365 * day, left: 31 * day},
		"over":                 {life: 365 * day, left: -23 * time.Hour, shown: true},
		"long over":            {life: 365 * day, left: -25 * time.Hour},
		"short":                {life: 5 * day, left: 2 * day},
		"short at its end":     {life: 5 * day, left: day, shown: true},
		"hours":                {life: 8 * time.Hour, left: 3 * time.Hour},
		"hours over":           {life: 8 * time.Hour, left: -time.Hour, shown: true},
		"hours over for hours": {life: 8 * time.Hour, left: -3 * time.Hour},
		"elsewhere":            {life: 365 * day, left: time.Hour},
	} {
		at := now.Add(key.left)
		_, expires := accesstest.NewKey(relay.RoleRead, "", at.Add(-key.life), &at)
		_, never := accesstest.NewKey(relay.RoleRead, "", now, nil)
		k.Put(relay.Client{ID: id, Keys: []relay.Key{expires, never}}, 1)
		if key.shown {
			want++
		}
		if _, soon := expires.EndsIn(now); soon != key.shown && id != "elsewhere" {
			t.Errorf("%s ends soon: %t", id, soon)
		}
	}
	shown := k.Expiring(func(client string) bool { return client != "elsewhere" })
	if n := testutil.CollectAndCount(shown, "audatex_relay_api_key_expires_seconds"); n != want {
		t.Errorf("%d keys are shown, want %d", n, want)
	}
}
