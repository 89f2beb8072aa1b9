package poller

import "time"

// NextOrdinary returns when a connection's next ordinary poll after one at t is due.
func NextOrdinary(connection string, interval time.Duration, t time.Time) time.Time {
	s := schedule{phase: phaseOf(connection), interval: interval}
	return s.ordinary(t)
}
