package natstest

import (
	"errors"
	"os"
	"sync"
	"time"
	_ "unsafe" // for go:linkname
)

// Elections is how many times faster than in production the servers of this process notice that a
// leader is gone and elect another. What lives for as long as an election takes in production (a
// lease) must be divided by it too, so that proportions stay the same. RELAY_ELECTIONS=production
// makes it 1: .ci/full runs every test of a cluster that way as well.
func Elections() time.Duration {
	if os.Getenv("RELAY_ELECTIONS") == "production" {
		return 1
	}
	return 3
}

// The server has no options for these; its own tests set them as well. See raft.go there.
var (
	//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
	minElectionTimeout time.Duration
	//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
	maxElectionTimeout time.Duration
	//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
	hbInterval time.Duration
	//go:linkname lostQuorumInterval github.com/nats-io/nats-server/v2/server.lostQuorumInterval
	lostQuorumInterval time.Duration
	//go:linkname lostQuorumCheck github.com/nats-io/nats-server/v2/server.lostQuorumCheck
	lostQuorumCheck time.Duration
)

// ShortenElections must be called before the first server of a cluster is made; NewCluster does it.
var ShortenElections = sync.OnceValue(func() error {
	if minElectionTimeout == 0 {
		return errors.New("the server's election timeouts have other names now: see raft.go there")
	}
	for _, d := range []*time.Duration{&minElectionTimeout, &maxElectionTimeout, &hbInterval, &lostQuorumInterval, &lostQuorumCheck} {
		*d /= Elections()
	}
	return nil
})
