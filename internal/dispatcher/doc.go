// Package dispatcher delivers the events of the log to the callbacks that want them: step 4 of a notification's way.
// Each event reaches every callback that it matches at least once, in order per order, or its delivery ends visibly,
// and an attempt is recorded before the cursor counts it. Begin reading at step.go, whose switch has all that can
// happen; the files, in the order in which an event goes through them:
//
//	adopt.go       loads the callbacks of a shard, and makes writes of former owners fail
//	loop.go        takes what the shared reader (internal/logreader) has read, and does what the core decides
//	step.go        the core: which messages there are, and what each means
//	group.go       offers each event to the callbacks of the shard that want it
//	reading.go     reads for a callback that is behind, until it can join the shared reader
//	catchup.go     reads the log once for all callbacks of shards that have just come to this replica
//	callback.go    the state of a callback: reading, sending, storing
//	sending.go     decides what may be sent now, and what the outcome of an attempt means
//	attempt.go     the worker that makes attempts (internal/delivery)
//	notices.go     decides what is published about a callback, and when
//	expiry.go      ends the deliveries of events that have left the log
//	disable.go     ends a callback: 410, or failing for too long
//	persist.go     publishes such notices, and stores that a callback is disabled, however often that must be tried
//	storing.go     decides what is stored together, and when
//	round.go       stores it: attempts, then the cursors that count them, then the watermark
//	watermark.go   the position that is stored for all callbacks of a shard that keep up
//
// Beside the way of an event:
//
//	dispatcher.go  Dispatcher: New, Prepare and Run for a replica, Own for a shard
//	config.go      what a Dispatcher is made from
//	calls.go       what the API calls: each call runs in the goroutine of the callback's shard
//	operator.go    what operators do with a delivery or a callback: retry, skip, test
//	status.go      how a callback is doing (internal/backlog), for the API and the metrics
package dispatcher

// A callback belongs to a shard, and a shard to the replica that holds its lease. For each shard that it holds, a
// replica has a loop (loop.go): the only goroutine that touches the shard's callbacks. A loop takes messages, lets the
// core decide what they mean (step.go), and does what was decided in goroutines that send back another message. The
// core has no channel, clock or store, so all its decisions are tested without them.
//
// When an order is tried again, the cursor (internal/cursor) decides by Config.Schedule. What deliveries share with
// replays of a callback is in internal/delivery and internal/capacity.
