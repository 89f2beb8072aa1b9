package notice

import (
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Event returns the kind of operational event that publishes a kind of notice.
func (k Kind) Event() relay.Kind {
	return [kinds]relay.Kind{
		DeliveryFailed: relay.KindDeliveryFailed, Failing: relay.KindCallbackFailing,
		Recovered: relay.KindCallbackRecovered, Expired: relay.KindDeliveriesExpired,
		Disabled: relay.KindCallbackDisabled,
	}[k]
}

// Message describes in a sentence or two what has happened to a callback, and what to do. Down is whether its receiver
// is still in its outage.
func (k Kind) Message(callback string, g Gathered, down bool) string {
	since := g.Since.Format(time.RFC3339)
	switch {
	case k == DeliveryFailed:
		return fmt.Sprintf("Deliveries to callback %s have failed for good: %d since %s. Find out why, and replay "+
			"them.", callback, g.Count, since)
	case k == Failing && down:
		return fmt.Sprintf("The receiver of callback %s fails: %d attempts since %s. What waits is kept and tried "+
			"again.", callback, g.Count, since)
	case k == Failing:
		return fmt.Sprintf("The receiver of callback %s failed: %d attempts since %s. It has answered again.",
			callback, g.Count, since)
	case k == Recovered:
		return fmt.Sprintf("The receiver of callback %s answers again since %s; what waited is being delivered.",
			callback, since)
	case k == Disabled && g.Reason == "gone":
		return fmt.Sprintf("Callback %s is disabled: the receiver answered 410. Nothing is lost: resume it to go on.",
			callback)
	case k == Disabled:
		return fmt.Sprintf("Callback %s is disabled: every attempt has failed since %s. Nothing is lost: resume it "+
			"to go on.", callback, since)
	}
	return fmt.Sprintf("Events for callback %s left the log before they could be delivered. "+
		"They are lost to it; read the orders again if they matter.", callback)
}

// Details are the details of the event. Waiting is how many events wait for the callback, as far as they have been
// read.
func (k Kind) Details(g Gathered, down bool, waiting int) map[string]any {
	details := map[string]any{"since": g.Since.Format(time.RFC3339), "from": g.From, "through": g.Through}
	if g.First != "" {
		details["firstEvent"], details["lastEvent"] = g.First, g.Last
	}
	switch k {
	case DeliveryFailed:
		details["count"] = g.Count
	case Failing:
		details["count"], details["recovered"] = g.Count, !down
	case Recovered:
		details["waiting"] = waiting
	case Expired:
		details["count"], details["unreadPositions"] = g.Count, g.Unread
	case Disabled:
		return map[string]any{"reason": g.Reason}
	}
	return details
}
