package natsd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/access/accesstest"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
)

// door is a server with the keys of two clients, one limited to a site and one of all sites.
type door struct {
	*Server
	t      *testing.T
	log    *journal
	counts *ingress.Metrics
	known  *access.Keys
	ids    [2]string
	keys   [2]string
}

func openDoor(t *testing.T, limits Limits) *door {
	t.Helper()
	d := &door{t: t, log: &journal{}, counts: ingress.NewMetrics(nil)}
	var err error
	d.Server, err = Start(Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Subscribers: limits, Ingress: d.counts,
		Log: slog.New(slog.NewTextHandler(d.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	d.known = access.New(access.Config{Log: slog.New(slog.DiscardHandler), Changed: d.Recheck})
	for i, c := range []relay.Client{{ID: "limited", Sites: []string{"leeds"}}, {ID: "all", AllSites: true}} {
		text, stored := accesstest.NewKey(relay.RoleRead, "", time.Now(), nil)
		c.Keys = []relay.Key{stored}
		d.known.Put(c, 1)
		d.ids[i], d.keys[i] = stored.ID, text
	}
	d.Admit(d.known)
	return d
}

func (d *door) login(options ...nats.Option) (*nats.Conn, error) {
	options = append([]nats.Option{nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})},
		options...)
	nc, err := nats.Connect("nats://"+d.Addr(), options...)
	if err == nil {
		d.t.Cleanup(nc.Close)
	}
	return nc, err
}

func (d *door) must(who int) *nats.Conn {
	d.t.Helper()
	nc, err := d.login(nats.UserInfo(d.ids[who], d.keys[who]))
	if err != nil {
		d.t.Fatal(err)
	}
	return nc
}

// refusals receives what the server refuses after the login.
func refusals(to chan<- error) nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case to <- err:
		default:
		}
	})
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestConnectionsOfSubscribersAreBounded(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Limits{Connections: 20, PerKey: 3, PerAddress: 5})
	first := d.must(0)
	for range 2 {
		d.must(0)
	}
	if _, err := d.login(nats.UserInfo(d.ids[0], d.keys[0])); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a fourth connection with a key: %v", err)
	}
	d.must(1)
	d.must(1)
	if _, err := d.login(nats.UserInfo(d.ids[1], d.keys[1])); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a sixth connection from an address: %v", err)
	}
	first.Close()
	soon(t, "a closed connection makes room", func() bool {
		_, err := d.login(nats.UserInfo(d.ids[0], d.keys[0]))
		return err == nil
	})
	if log := strings.Join(d.log.lines(), "\n"); !strings.Contains(log, "a key has too many") ||
		!strings.Contains(log, "an address has too many") || !strings.Contains(log, d.ids[0]) {
		t.Errorf("the log does not tell: %s", log)
	}
}

func TestWhatASubscriberMayAskOfItsConnection(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Limits{})
	for who := range 2 {
		refused := make(chan error, 1)
		nc, err := d.login(nats.UserInfo(d.ids[who], d.keys[who]), refusals(refused))
		if err != nil {
			t.Fatal(err)
		}
		for n := range maxSubscriptions {
			if _, err := nc.SubscribeSync(fmt.Sprintf("audatex.leeds.parts.order.created.%d", n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Errorf("client %d: %d subscriptions: %v", who, maxSubscriptions, err)
		}
		if len(refused) > 0 {
			t.Errorf("client %d: %v", who, <-refused)
		}
		_, _ = nc.SubscribeSync("audatex.leeds.parts.order.created.more")
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
				t.Errorf("client %d: one subscription too many: %v", who, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("client %d: one subscription too many is not refused", who)
		}

		// The library keeps to what the server announces, so the bytes are sent by hand.
		raw, err := net.Dial("tcp", d.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(raw,
			"CONNECT {\"user\":%q,\"pass\":%q,\"verbose\":false}\r\nPUB events.consumer.put %d\r\n",
			d.ids[who], d.keys[who], maxRequest+1); err != nil {
			t.Fatal(err)
		}
		_ = raw.SetReadDeadline(time.Now().Add(20 * time.Second))
		said := &strings.Builder{}
		for buffer := make([]byte, 4096); ; {
			n, err := raw.Read(buffer)
			said.Write(buffer[:n])
			if err != nil {
				break
			}
		}
		if !strings.Contains(said.String(), "Maximum Payload") {
			t.Errorf("client %d: a large message: %s", who, said)
		}
		_ = raw.Close()
	}
	own, err := d.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for n := range 3 * maxSubscriptions {
		if _, err := own.SubscribeSync(fmt.Sprintf("relay.test.%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(own.Publish("relay.test.1", make([]byte, MaxPayload-1)), own.Flush()); err != nil {
		t.Errorf("the relay's own connection: %v", err)
	}
}

// A stranger with all connections does not keep the relay from its own store.
func TestTheRelayFindsRoomBesideStrangers(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Limits{Connections: 6})
	own, err := d.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	d.must(0)
	fill := func() {
		for range 30 {
			c, err := net.Dial("tcp", d.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
		soon(t, "all connections are taken", func() bool { return d.server.NumClients() >= 6+ownConnections })
	}
	fill()
	second, err := d.Connect()
	if err != nil {
		t.Fatalf("the relay finds no connection: %v", err)
	}
	defer second.Close()
	if !own.IsConnected() || second.Flush() != nil {
		t.Error("a connection of the relay was closed for another")
	}
}

// The log never contains a secret that was sent in the wrong place. Failures are counted, and
// sampled.
func TestFailedLoginsAreSeenWithoutWhatWasGiven(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Limits{})
	const token = "AdminToken0123456789abcd"
	secret := d.keys[0]
	logins := [][]nats.Option{
		{nats.UserInfo(token, "")}, {nats.UserInfo(token, token)}, {nats.UserInfo(secret, secret)},
		{nats.UserInfo("", token)}, {nats.Token(token)},
		{nats.Token(secret)}, {nats.UserInfo(d.ids[0], token)}, {nats.UserInfo(d.ids[0], secret+"x")},
		{nats.UserInfo(d.ids[1], secret)},
		{nats.Name(token), nats.UserInfo("x", "y")}, {},
	}
	for range 20 {
		for _, options := range logins {
			if _, err := d.login(options...); !errors.Is(err, nats.ErrAuthorization) {
				t.Fatalf("login: %v", err)
			}
		}
	}
	// A valid login is not slowed, no matter which name it uses and what it does wrong.
	nc, err := d.login(nats.UserInfo(d.ids[0], secret), nats.Name(token))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(nc.Publish("relay.inbox.11.x", nil), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"CONNECT {\"user\":\"x\",\"pass\":\"" + token + "\"\r\n", "GET /?token=" + token + " HTTP/1.1\r\n\r\n",
		token + "\r\n", "PUB " + token + "\r\n",
		"CONNECT {\"user\":\"" + token + "\",\"pass\":" + strings.Repeat("\""+token+"\"", 500) + "}\r\n",
	} {
		raw, err := net.Dial("tcp", d.Addr())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = raw.Write([]byte(line))
		_ = raw.SetReadDeadline(time.Now().Add(20 * time.Second))
		for buffer := make([]byte, 4096); err == nil; {
			_, err = raw.Read(buffer)
		}
		_ = raw.Close()
	}
	for reason, want := range map[string]float64{failureMissing: 20, failureToken: 20 * 7, failureKey: 20 * 3} {
		if got := testutil.ToFloat64(d.counts.FailureCounter("nats", reason)); got < want {
			t.Errorf("%v failures by %s, want %v", got, reason, want)
		}
	}
	d.Stop()
	log := strings.Join(d.log.lines(), "\n")
	for _, s := range []string{token, token[:12], secret, secret[20:], "y\""} {
		if strings.Contains(log, s) {
			t.Errorf("a secret is in the log: %s", log)
		}
	}
	if n := strings.Count(log, "login was refused"); n != 1 {
		t.Errorf("%d lines about 220 refused logins", n)
	}
	if !strings.Contains(log, "remote=127.0.0.1") {
		t.Errorf("the log has no address: %s", log)
	}
}

// A connection ends with its key: when that is revoked, when its client is removed, and when it
// expires.
func TestSubscribersGoWithTheirKeys(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Limits{})
	revoked, removed := d.must(0), d.must(1)
	d.known.Put(relay.Client{ID: "limited", Sites: []string{"leeds"}}, 2)
	soon(t, "a revoked key", revoked.IsClosed)
	if removed.IsClosed() {
		t.Error("another client's connection was closed")
	}
	d.known.Removed("all", 2)
	soon(t, "a removed client", removed.IsClosed)
	ends := time.Now().Add(time.Second)
	text, stored := accesstest.NewKey(relay.RoleRead, "", time.Now(), &ends)
	d.known.Put(relay.Client{ID: "short", AllSites: true, Keys: []relay.Key{stored}}, 1)
	expiring, err := d.login(nats.UserInfo(stored.ID, text))
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "an expired key", expiring.IsClosed)
	if time.Now().Before(ends) {
		t.Error("a connection ends before its key does")
	}
}

// counted counts the uses of keys.
type counted struct {
	*access.Keys

	uses atomic.Int32
}

func (c *counted) Lookup(keyID, key string) (relay.Client, relay.Key, bool) {
	c.uses.Add(1)
	return c.Keys.Lookup(keyID, key)
}

// A login is a use of a key; looking at it again because some client has changed is none.
func TestARecheckIsNoUseOfAKey(t *testing.T) {
	t.Parallel()
	d := openDoor(t, Limits{})
	keys := &counted{Keys: d.known}
	d.Admit(keys)
	nc, err := d.login(nats.UserInfo(d.ids[0], d.keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	d.Recheck("another")
	if err := nc.Flush(); err != nil || keys.uses.Load() != 1 {
		t.Errorf("%d uses: %v", keys.uses.Load(), err)
	}
}
