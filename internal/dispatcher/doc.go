// Package dispatcher delivers the events of the log to the callbacks that want them: step 4 of a notification's way. Each
// event reaches every callback that it matches, in order per order, at least once, or its delivery ends visibly; an attempt
// is recorded before the cursor counts it. Begin reading at step.go: its switch has everything that can happen, in the
// order of a delivery's life.
//
// A callback belongs to a shard, and a shard to the replica that holds its lease. For each shard that it holds a replica
// has a loop (loop.go): the one goroutine that touches the shard's callbacks. A loop takes messages, has the core decide
// what they mean (step.go), and does what was decided in goroutines that hand back another message. The core has no
// channel, clock or store, so all decisions are tested without them.
//
//	group.go      offers what the shared reader (internal/logreader) has read to the callbacks of a shard
//	reading.go    a callback that is behind: it reads by itself until it can join the shared reader
//	catchup.go    reads the log once for the callbacks of shards that have just come to this replica
//	sending.go    what may be sent now, and what the outcome of an attempt means
//	attempt.go    the worker that makes attempts (internal/delivery)
//	storing.go    what is stored together, and when; round.go stores it
//	watermark.go  what quiet callbacks need not store
//	adopt.go      how callbacks are loaded and former owners fenced off
//	facts.go      what is published as an event; disable.go ends a callback
//	status.go     how a callback is doing (internal/backlog); operator.go has what operators do with it
//
// The retry schedule is a setting (Config.Schedule). The cursor decides by it when an order is tried again
// (internal/cursor); sending.go gives it each outcome.
//
// What all readers of a callback share (its target, attempts, records, concurrency and rate) is in internal/delivery and
// internal/capacity.
package dispatcher
