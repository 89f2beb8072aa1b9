// Package notice gathers what happens to a callback again and again until it is published as an operational event: a
// receiver that is down makes a few events and not ten thousand. Each kind is published at most once in an hour, with
// how often it happened and the first and the last event that it happened to, and what happens meanwhile is in the next
// one, so nothing is left out. Begin reading at Notices.
package notice

import "time"

const (
	// every is how far two events of one kind about a callback are apart at least.
	every = time.Hour
	// settle is how long one gathers before the first.
	settle = time.Second
	// long is how long every attempt has to fail until that is an outage.
	long = 10 * time.Minute
)

// Long reports whether every attempt has failed for so long that this is an outage. Since is zero if the last one has
// not.
func Long(since, now time.Time) bool { return !since.IsZero() && now.Sub(since) >= long }

// Gathered is what has happened and is not published yet.
type Gathered struct {
	Count   int       `json:"count,omitempty"`
	First   string    `json:"first,omitempty"` // the id of the first event that it happened to, if that is known
	Last    string    `json:"last,omitempty"`
	Since   time.Time `json:"since,omitzero"` // of the first
	Reason  string    `json:"reason,omitempty"`
	From    uint64    `json:"from,omitempty"` // the lowest position in the log
	Through uint64    `json:"through,omitempty"`
	// positions that were never read: some of them may have been for the callback
	Unread uint64 `json:"unread,omitempty"`
}

func (g *Gathered) empty() bool { return *g == Gathered{} }

func (g *Gathered) add(m Gathered) {
	if g.empty() {
		*g = m
		return
	}
	g.Count += m.Count
	g.Unread += m.Unread
	g.From, g.Through = min(g.From, m.From), max(g.Through, m.Through)
	if g.First == "" {
		g.First = m.First
	}
	if m.Last != "" {
		g.Last = m.Last
	}
	if m.Reason != "" {
		g.Reason = m.Reason
	}
}

// notice is one kind of event about one callback.
type notice struct {
	Gathered

	Published time.Time `json:"published,omitzero"` // when something was last

	sending bool     // an event with what was gathered is being published
	rest    Gathered // what has been added since that began; it is part of Gathered
}

func (n *notice) add(g Gathered) {
	n.Gathered.add(g)
	if n.sending {
		n.rest.add(g)
	}
}

// at returns when it must be published next, zero if there is nothing.
func (n *notice) at(wait, apart time.Duration, now time.Time) time.Time {
	if n.sending || n.empty() {
		return time.Time{}
	}
	at := n.Since
	if at.After(now) { // the clock was set back
		at = now.Add(-wait)
	}
	at = at.Add(wait)
	if next := n.Published.Add(apart); next.After(at) && !n.Published.After(now) {
		at = next
	}
	return at
}
