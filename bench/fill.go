package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

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
func open(ctx context.Context, dir string) (*store.Store, func(), error) {
	log := slog.New(slog.DiscardHandler)
	server, err := natsd.Start(natsd.Config{Dir: dir, Log: log})
	if err != nil {
		return nil, nil, err
	}
	nc, err := server.Connect()
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	closing := func() {
		nc.Close()
		server.Stop()
	}
	keys, err := store.KeysFromFile(dir)
	if err != nil {
		closing()
		return nil, nil, err
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		closing()
		return nil, nil, err
	}
	s, err := store.Open(ctx, store.Config{
		Conn: nc, Topology: topology.Topology{Prefix: "relay", Replicas: 1, Retention: 30 * 24 * time.Hour}, Sealer: sealer, Log: log,
	})
	if err != nil {
		closing()
		return nil, nil, err
	}
	return s, closing, nil
}

// fill writes n events of many orders into the log of a data directory.
func fill(ctx context.Context, dir string, n int) error {
	s, closing, err := open(ctx, dir)
	if err != nil {
		return err
	}
	defer closing()
	return fillStore(ctx, s, n)
}

// fillStore is the same of a store that is open.
func fillStore(ctx context.Context, s *store.Store, n int) error {
	const writers = sites
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			positions := make([]uint64, ordersPerSite)
			for i := w; i < n; i += writers {
				order := i / writers % ordersPerSite
				ev, err := event(fmt.Sprintf("site-%d", w), w*ordersPerSite+order, i)
				if err == nil {
					positions[order], err = s.Events.Publish(ctx, ev, store.InboxRef{}, positions[order])
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// event is one of about 1.5 KB, as a hostile sandbox's are.
func event(site string, order, n int) (relay.Event, error) {
	id := fmt.Sprintf("5f0c1c2e-6a64-4a2c-9d55-%012x", order)
	data := relay.OrderData{
		Order: []byte(fmt.Sprintf(`{"AssessmentId":"70f1bd35-9395-4052-b754-13ad1faf4598","SupplierName":"Northern Parts & Co","PartsOrderId":%q,"OrderReference":"PO-%d","Status":"Confirmed","DeliveryDate":null,"Parts":[`+
			`{"OEPartNumber":"06H 905 110 G","OrderedPartNumber":"06H 905 110 G","Quantity":1,"Status":"New","RepairerPrice":223.54,"InsurerPrice":841.30,"DeliveryDate":null},`+
			`{"OEPartNumber":"51117379106","OrderedPartNumber":"51117379106","Quantity":1,"Status":"New","RepairerPrice":19.990,"InsurerPrice":100.01},`+
			`{"OEPartNumber":"5Q0-407-151/A","OrderedPartNumber":"5Q0-407-151/A","Quantity":3,"Status":"New","RepairerPrice":12.0,"InsurerPrice":63.90,"DeliveryDate":null}]}`, id, n)),
		ReadAt: time.Now(), Revision: 1, Origin: relay.OriginNotification,
		Changes: []relay.Change{{Path: "/Status", From: []byte(`"New"`), To: []byte(`"Confirmed"`)}},
	}
	return relay.NewOrderEvent("http://localhost:8080", site, id, relay.TypeOrderUpdated, relay.NextSequence(time.Now(), 0), time.Now(), data)
}

// fillOnce fills a log unless it is filled already.
func fillOnce(ctx context.Context, dir string, n int) error {
	s, closing, err := open(ctx, dir)
	if err != nil {
		return err
	}
	_, last, err := s.Events.Bounds(ctx)
	closing()
	if err != nil || last >= uint64(n) {
		return err
	}
	return fill(ctx, dir, n)
}
