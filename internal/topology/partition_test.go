package topology_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/topology"
)

// TestTheLogCanBeDividedBySite runs the mapping that docs/scaling.md proposes, with a stream like
// the log's for each partition: a site's events lie in one of them, conditions hold there, and live
// subjects are the public ones.
func TestTheLogCanBeDividedBySite(t *testing.T) {
	t.Parallel()
	const partitions = 16
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "scaling.md"))
	if err != nil {
		t.Fatal(err)
	}
	mapping := regexp.MustCompile("(?s)```\n(# in the relays' account.*?)```").FindSubmatch(page)
	if mapping == nil {
		t.Fatal("docs/scaling.md has no mapping")
	}
	conf := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("listen: 127.0.0.1:-1\njetstream { store_dir: %q }\naccounts { RELAY { jetstream: enabled\n"+
		"users: [{user: relay, password: relay}]\n%s } }\n", t.TempDir(), mapping[1])
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	options.NoLog, options.NoSigs = true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not come up")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("relay", "relay"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	topo := topology.Topology{Prefix: "relay", Replicas: 1, Retention: time.Hour}
	for p := range partitions {
		log := topo.Streams()[1]
		in := fmt.Sprintf("relay.log.%d.>", p)
		log.Name, log.Subjects = fmt.Sprintf("%s_%d", topo.Events(), p), []string{in}
		log.SubjectTransform = &jetstream.SubjectTransformConfig{Source: in, Destination: topology.AllEvents}
		if _, err := js.CreateStream(t.Context(), log); err != nil {
			t.Fatal(err)
		}
	}
	live, err := nc.SubscribeSync(topology.AllEvents)
	if err != nil {
		t.Fatal(err)
	}

	used, partitionOf := map[string]bool{}, map[string]string{}
	for i := range 200 {
		site := fmt.Sprintf("site-%d", i%50)
		subject := topology.OrderSubject(site, "updated", fmt.Sprint("order-", i))
		m := nats.NewMsg(topo.PublishSubject(subject))
		first := jetstream.WithExpectLastSequenceForSubject(0, topology.OrderFilter(site, fmt.Sprint("order-", i)))
		ack, err := js.PublishMsg(t.Context(), m, first)
		if err != nil {
			t.Fatal(err)
		}
		if before := partitionOf[site]; before != "" && before != ack.Stream {
			t.Fatalf("%s lies in %s and in %s", site, before, ack.Stream)
		}
		partitionOf[site], used[ack.Stream] = ack.Stream, true
		heard, err := live.NextMsg(time.Minute)
		if err != nil || heard.Subject != subject {
			t.Fatalf("heard %v, %v; want %s", heard, err, subject)
		}
		var refused *jetstream.APIError
		if _, err := js.PublishMsg(t.Context(), m, first); !errors.As(err, &refused) ||
			refused.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
			t.Fatalf("a second first event of an order: %v", err)
		}
	}
	if len(used) < partitions/2 {
		t.Errorf("50 sites fall into %d of %d partitions", len(used), partitions)
	}
}
