package natstest

import "go.uber.org/goleak"

const natsServer = "github.com/nats-io/nats-server/v2/server"

// Leftovers are the goroutines that a NATS server of this process may leave behind although it was
// shut down and waited for (2.15.2). Each of them is one loop or one request of the server's own. A
// server that a test forgot to end has many others.
func Leftovers() []goleak.Option {
	return []goleak.Option{
		// The log of a raft group: a node that stops while it makes a group leaves it to the
		// shutdown, which may be over by then (createRaftGroup: "let n be reaped at shutdown"). The
		// second ticks for as long as any file store is open.
		goleak.IgnoreTopFunction(natsServer + ".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction(natsServer + "/ats.Register.func1"),
		// A stream that looks for its source waits up to half a minute for a response.
		goleak.IgnoreTopFunction(natsServer + ".(*stream).trySetupSourceConsumer.func3"),
	}
}
