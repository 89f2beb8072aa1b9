package dispatcher

import "github.com/audatex-relay/relay/internal/relay"

// disablement must be stored: a callback is disabled. It is published once the owner finds it in the configuration.
type disablement struct {
	cb      *callback
	why     relay.Disabled
	resumed int // how often the callback had been resumed when this was decided
}

// beginDisabling disables a callback until an operator resumes it. Nothing is sent to it from now on. Resumed is how
// often it had been resumed when the attempt was made that is the reason: if it has been since, it stays as it is.
func (c *core) beginDisabling(cb *callback, resumed int, why, detail string) {
	if cb.phase != live || cb.target.Callback.Disabled != nil || cb.target.Callback.Resumed > resumed {
		return
	}
	cb.phase, cb.endedAt = disabling, cb.target.Callback.Resumed
	cb.reading.atHand.DropAll()
	cb.reading.page, cb.reading.pageThrough = nil, 0
	cb.log.Warn("the callback is disabled", "reason", why, "detail", detail)
	c.underWay++
	c.out.disables = append(c.out.disables, disablement{cb, relay.Disabled{Reason: why, At: c.now.UTC()}, cb.endedAt})
}
