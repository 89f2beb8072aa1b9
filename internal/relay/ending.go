package relay

import "time"

// longestNotice is the notice of a long life. The last quarter of a short one is shorter: what is made for a few days
// is replaced more often, and would else be reported from the moment it is made.
const longestNotice = 30 * 24 * time.Hour

// actBeforeEnd is less than the longest notice, as many certificates are renewed by themselves 30 days before they end.
const actBeforeEnd = 14 * 24 * time.Hour

// NoticeOfEnd returns how long before its end a certificate or an API key that was made for this life counts as one
// that ends soon. Metrics, alerts, relay doctor and the events about keys all go by it.
func NoticeOfEnd(life time.Duration) time.Duration { return min(life/4, longestNotice) }

// MustAct reports whether somebody must act, for the alerts and relay doctor, as so much is left of a life.
func MustAct(left, life time.Duration) bool { return left < min(NoticeOfEnd(life), actBeforeEnd) }
