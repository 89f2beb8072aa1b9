// Package backup writes everything that the relay keeps into a directory, and restores it: JetStream's own snapshots of
// every stream and bucket, and a manifest, which names the encryption keys that are needed, as they are not in the
// backup. A document is saved before the data it refers to, so a restored reference never dangles, and a backup counts
// only when every bucket could be restored from it. Begin with Save and Restore; the order is explained below.
package backup

// The order.
//
// Relays may run while a backup is taken, and no two streams are read at the same moment. The rule
// of every step of the relay is: store downstream, and only then acknowledge upstream. So a
// document is saved before the data it refers to: everything that a restored document relies on is
// there, and what is newer than the document is at worst done again, as after a crash.
//
//	cursors       claim lanes, unresolved notifications, attempts, events
//	lanes         claim that the attempts are stored that they count
//	replays       claim attempts
//	orders        claim events (their last one, and which notifications have theirs)
//	open          an order that is open has its entry there before its first event
//	unresolved    a removed one claims its event
//	polls         an outcome claims its page in the inbox; a reconciliation's position claims the events up to there
//	attempts      claim the events they are of
//	events        claim the inbox entries they came of
//	inbox
//	audit         nobody relies on it
//	consents      a consent that has ended claims its connection's tokens
//	callbacks, clients, connections, tokens     others refer to them by name only; the younger a token is, the better.
//	                                            A callback that its client's document does not list is added to it
//	                                            (httpapi/sweep.go)
//	owners        last: its sequence is where epochs come from, so none of the documents above has a higher one
//
// One bucket.
//
// While the server reads a stream for a snapshot it goes on taking writes, and a bucket keeps only
// the last value of a key. A key that is overwritten before the snapshot comes to it is in the
// snapshot with neither value (measured: thousands under load). So what is there behind the
// snapshot and not in it is read key by key from the stream's leader, and kept beside it: the
// snapshot with this tail over it holds every key as it was when the snapshot began, or later.
// Every bucket is restored into a server of our own right away, from which the manifest's words are
// read; what cannot be restored is no backup. The logs only grow at one end and lose at the other,
// which their snapshots carry faithfully.
