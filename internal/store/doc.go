// Package store is the relay's only way to JetStream: its logs (Inbox, Events, Attempts, Audit) and the buckets as
// typed stores. Every write of the program goes through Store.write or Store.writeAll, so the meaning of a refusal is
// decided in one place, and a test can cut the program off between any two of them. Begin with Store and Bucket;
// write.go is where every write ends, owned.go the rule for documents of a shard's owner.
package store
