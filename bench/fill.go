package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/natsd"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

const (
	ordersPerSite = 1_000
	sites         = 10
)

// open opens the store in a data directory of a relay that does not run.
func (b *bench) open(dir string) (s *store.Store, closing func()) {
	server := get(natsd.Start(natsd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}))
	nc := get(server.Connect())
	s = b.openOn(nc, 1, get(store.NewSealer(get(store.KeysFromFile(dir)))))
	return s, func() {
		nc.Close()
		server.Stop()
	}
}

// openOn opens the store on a NATS server, with so many copies of everything.
func (b *bench) openOn(nc *nats.Conn, copies int, sealer *store.Sealer) *store.Store {
	return get(store.Open(b.ctx, store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: copies, Retention: 30 * 24 * time.Hour},
		Sealer: sealer, Log: slog.New(slog.DiscardHandler),
	}))
}

// fill writes n events of many orders into the log of a data directory.
func (b *bench) fill(dir string, n int) {
	s, closing := b.open(dir)
	defer closing()
	if err := fillStore(b.ctx, s, n); err != nil {
		must(fmt.Errorf("fill the log: %w", err))
	}
}

// fillStore is the same of a store that is open.
func fillStore(ctx context.Context, s *store.Store, n int) error {
	positions := make([]uint64, sites*ordersPerSite)
	return spread(sites, n, func(site, i int) error {
		order := site*ordersPerSite + i/sites%ordersPerSite
		ev, err := event(fmt.Sprintf("site-%d", site), order, i)
		if err == nil {
			positions[order], err = s.Events.Publish(ctx, ev, store.InboxRef{}, positions[order])
		}
		return err
	})
}

// event is one of about 1.5 KB, as a hostile sandbox's are.
func event(site string, order, n int) (relay.Event, error) {
	id := fmt.Sprintf("5f0c1c2e-6a64-4a2c-9d55-%012x", order)
	data := relay.OrderData{
		Order: []byte(fmt.Sprintf(`{"AssessmentId":"70f1bd35-9395-4052-b754-13ad1faf4598",`+
			`"SupplierName":"Northern Parts & Co",`+
			`"PartsOrderId":%q,"OrderReference":"PO-%d","Status":"Confirmed","DeliveryDate":null,"Parts":[`+
			`{"OEPartNumber":"06H 905 110 G","OrderedPartNumber":"06H 905 110 G","Quantity":1,"Status":"New",`+
			`"RepairerPrice":223.54,"InsurerPrice":841.30,"DeliveryDate":null},`+
			`{"OEPartNumber":"51117379106","OrderedPartNumber":"51117379106","Quantity":1,"Status":"New",`+
			`"RepairerPrice":19.990,"InsurerPrice":100.01},`+
			`{"OEPartNumber":"5Q0-407-151/A","OrderedPartNumber":"5Q0-407-151/A","Quantity":3,"Status":"New",`+
			`"RepairerPrice":12.0,"InsurerPrice":63.90,"DeliveryDate":null}]}`, id, n)),
		ReadAt: time.Now(), Revision: 1, Origin: relay.OriginNotification,
		Changes: []relay.Change{{Path: "/Status", From: []byte(`"New"`), To: []byte(`"Confirmed"`)}},
	}
	return relay.NewOrderEvent("http://localhost:8080", site, id, relay.TypeOrderUpdated,
		relay.NextSequence(time.Now(), 0), time.Now(), data)
}

// fillOnce fills a log unless it is filled already.
func (b *bench) fillOnce(dir string, n int) {
	s, closing := b.open(dir)
	_, last, err := s.Events.Bounds(b.ctx)
	closing()
	must(err)
	if last < uint64(n) {
		b.fill(dir, n)
	}
}
