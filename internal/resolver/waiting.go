package resolver

// Waiting answers how many notifications of a connection were read from the inbox and are not resolved; false if this replica
// does not own it. A page that has just come in may not be counted yet.
func (r *Resolver) Waiting(connection string) (int, bool) {
	run, ok := r.roster.Runner(connection)
	if !ok {
		return 0, false
	}
	return int(run.held.Load()), true
}
