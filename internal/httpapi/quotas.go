package httpapi

import (
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// full returns the problem for a client that has as many of something as it may have.
func full(what string, used, limit int) error {
	return kindLimit.problem("The client has %d %s and may have %d. Remove one, or let an administrator raise %s",
		used, what, limit, limitsPlace)
}

// limitsPlace is where an administrator sets what a client may have.
const limitsPlace = "the client's limits (PUT /v1/clients/{id})."

// quotas returns what a client may have, and how much of it is used. What is counted at each
// replica is this one's.
func (a *API) quotas(c relay.Client) ClientQuotas {
	may := c.Allowed()
	return ClientQuotas{
		Callbacks:       Quota{Limit: may.Callbacks, Used: a.callbacksOf(c)},
		Keys:            Quota{Limit: may.Keys, Used: len(c.Keys)},
		WaitingRequests: Quota{Limit: may.WaitingRequests, Used: a.waiting.of(c.ID)},
		Replays:         Quota{Limit: may.Replays, Used: a.runningReplays(c)},
		TestsPerMinute:  may.TestsPerMinute,
	}
}

// callbacksOf returns how many callbacks a client has. Its document may list ids that have none, of requests whose
// replica died: they are removed from it once their places are needed. While this replica has not read the callbacks,
// all count.
func (a *API) callbacksOf(c relay.Client) (n int) {
	select {
	case <-a.callbacks.Ready():
	default:
		return len(c.Callbacks)
	}
	for id := range c.Callbacks {
		if e, there := a.callbacks.Get(id); there && e.Value.BelongsTo(c) {
			n++
		}
	}
	return n
}

// runningReplays returns how many replays of a client are under way.
func (a *API) runningReplays(c relay.Client) (n int) {
	a.replays.Page(c.ID, "", 1, func(doc relay.Replay) bool {
		if doc.Running() {
			n++
		}
		return false
	})
	return n
}

// of returns how many requests of a client wait.
func (w *waiting) of(client string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clients[client]
}

// mayTest takes one test from what the client of a callback may do a minute.
func (a *API) mayTest(cb relay.Callback) error {
	owner, _ := a.c.Keys.Client(cb.Client)
	perMinute := owner.Allowed().TestsPerMinute
	perSecond := a.c.testsPerSecond
	if owner.Limits.TestsPerMinute > 0 {
		perSecond = float64(perMinute) / 60
	}
	if a.tests.allowAt(cb.Client+" "+cb.ClientGeneration, perSecond) {
		return nil
	}
	return tooManyTests(perMinute, perSecond)
}

func tooManyTests(perMinute int, perSecond float64) error {
	p := kindTooMany.problem("The client's callbacks were tested too often: it may do %d tests a minute. Wait, or "+
		"let an "+
		"administrator raise %s", perMinute, limitsPlace)
	p.retryAfter = time.Duration(float64(time.Second) / perSecond)
	return p
}
