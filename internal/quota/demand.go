package quota

import (
	"context"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// tokenRefresh is about how often the access token of a connection that is polled more often is
// refreshed.
const tokenRefresh = 24 * time.Minute

// WarnOfDemand warns when ordinary polls and the refreshes that they need are alone more requests a
// minute than the rate. Polls that come sooner use only what is left over.
func WarnOfDemand(ctx context.Context, s *store.Store, rate int, interval time.Duration, log *slog.Logger) {
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return // the poller meets the same trouble and reports it
	}
	polls, refreshes := 0.0, 0.0
	for _, e := range connections {
		every := interval
		if e.Value.PollIntervalSeconds > 0 {
			every = time.Duration(e.Value.PollIntervalSeconds * float64(time.Second))
		}
		if !e.Value.Paused {
			polls += float64(time.Minute) / float64(every)
			refreshes += float64(time.Minute) / float64(max(every, tokenRefresh))
		}
	}
	if polls+refreshes > float64(rate) {
		log.Warn("polling alone needs more requests than RELAY_AUDATEX_RATE allows; polls will come late. Agree on a higher rate with the vendor, or raise RELAY_POLL_INTERVAL",
			"connections", len(connections), "polls_per_minute", polls, "refreshes_per_minute", refreshes, "rate", rate)
	}
}
