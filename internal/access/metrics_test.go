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
	for id, in := range map[string]time.Duration{
		"soon": 10 * 24 * time.Hour, "far": 60 * 24 * time.Hour, "over": -time.Hour, "long over": -48 * time.Hour, "elsewhere": time.Hour,
	} {
		at := now.Add(in)
		_, expires := accesstest.NewKey(relay.RoleRead, "", now, &at)
		_, never := accesstest.NewKey(relay.RoleRead, "", now, nil)
		k.Put(relay.Client{ID: id, Keys: []relay.Key{expires, never}}, 1)
	}
	shown := k.Expiring(func(client string) bool { return client != "elsewhere" })
	if n := testutil.CollectAndCount(shown, "audatex_relay_api_key_expires_seconds"); n != 2 {
		t.Errorf("%d keys are shown, want those of soon and over", n)
	}
}
