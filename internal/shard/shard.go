// Package shard decides which replica works on what: connections and callbacks fall into 64 fixed shards, each owned by
// one replica at a time under a lease with a rising epoch. Every document an owner writes carries its epoch, so that a
// later owner's writes win. Begin with Member.Run and Lease; share.go divides the shards, run.go and renew.go keep the
// leases.
package shard

// A replica that has joined (Member) keeps a record of its own and the leases of its shards in
// relay_owners, where both expire unless they are renewed, and watches those of the others. Which
// shards a replica should own follows from the set of live members (assign), so replicas need not
// negotiate.
//
// Two things keep two replicas from working on one shard. One is the lease's time, measured by the
// owner's own clocks from before the lease was requested (Lease.Valid). For work that is under way
// longer than that, it is the epoch.
