// Package shard decides who works on what: connections and callbacks fall into 64 fixed shards, each owned by
// one replica at a time under a lease with a rising epoch. Every document an owner writes carries its epoch,
// so that a later owner's writes win.
//
// A replica that has joined (Member) keeps a record of its own and the leases of its shards in relay_owners,
// where both go by themselves unless they are renewed, and watches what the others have there. Which shards a
// replica should own follows from who is live (assign), so nobody has to decide, and nobody is asked.
//
// What keeps two replicas from working on one shard is the lease's time, measured from before it was asked
// for by the owner's own clocks (Lease.Valid), and for what is under way longer than that, the epoch.
package shard
