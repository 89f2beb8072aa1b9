package access

import "log/slog"

// Renew replaces the administrators by those that were read again, and logs who was added and who
// removed.
func (a *Admins) Renew(admins []Admin, log *slog.Logger) {
	if added, removed := a.Replace(admins); len(added)+len(removed) > 0 {
		log.Warn("the administrators' tokens have changed", "added", added, "removed", removed)
	}
}
