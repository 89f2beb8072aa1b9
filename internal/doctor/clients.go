package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// clients looks for API keys that end soon.
func (d *Doctor) clients(ctx context.Context) []Check {
	var bad unreadable
	all, err := d.c.Store.Clients.All(ctx, "", bad.add)
	if err != nil {
		return []Check{Unknown(Clients, "", "they cannot be read: %v", err)}
	}
	found := bad.found("clients")
	now, well := time.Now(), 0
	for _, e := range all {
		for _, k := range e.Value.Keys {
			if left, _ := k.EndsIn(now); left > 0 && relay.MustAct(left, k.ExpiresAt.Sub(k.CreatedAt)) {
				found = append(found, Wrong(Clients, e.Value.ID,
					fmt.Sprintf("its key %s ends at %s", k.ID, k.ExpiresAt.UTC().Format(time.RFC3339)),
					"tell it to make another key and replace it, or make one with POST /v1/clients/"+e.Value.ID+
						"/keys"))
			} else if !k.Expired(now) {
				well++
			}
		}
	}
	return append(found, ok(Clients, "", "%s, and %s", plural(len(all), "client", "clients"),
		plural(well, "key that does not end soon", "keys that do not end soon")))
}
