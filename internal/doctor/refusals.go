package doctor

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// The bounds of what is kept of refusals.
const (
	refusalsKept = 10 // different ones
	refusalsOf   = 24 * time.Hour
)

// refusal is something that NATS has not permitted, and how often.
type refusal struct {
	text  string
	count int
	last  time.Time
}

// refusals keeps what NATS has refused on a connection: the connection itself keeps its last error only, and one of
// another kind hides the refusal before.
type refusals struct {
	mu  sync.Mutex
	all []refusal // the newest last
}

// listen notes what is refused on a connection from now on, and the last of before. The connection's own handler is
// called as it was.
func (r *refusals) listen(nc *nats.Conn) {
	r.note(nc.LastError())
	handler := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		r.note(err)
		if handler != nil {
			handler(nc, sub, err)
		}
	})
}

// note keeps an error if it is a refusal.
func (r *refusals) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := refusal{text: printable(err.Error()), count: 1, last: time.Now()}
	if i := slices.IndexFunc(r.all, func(known refusal) bool { return known.text == now.text }); i >= 0 {
		now.count += r.all[i].count
		r.all = slices.Delete(r.all, i, i+1)
	}
	r.all = append(r.all, now)
	if len(r.all) > refusalsKept {
		r.all = slices.Delete(r.all, 0, 1)
	}
}

// found returns the refusals of the last day.
func (r *refusals) found() []Check {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Check
	for _, one := range r.all {
		if time.Since(one.last) < refusalsOf {
			found = append(found, Wrong(NATS, "permissions",
				fmt.Sprintf("NATS has refused the relay something, last at %s, %s since its start: %s",
					one.last.UTC().Format(time.RFC3339), plural(one.count, "time", "times"), one.text),
				"compare the relay's permissions with deploy/nats/relay-permissions.conf, then restart the relay"))
		}
	}
	return found
}
