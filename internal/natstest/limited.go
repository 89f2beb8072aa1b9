package natstest

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Limited is a server of somebody else's that takes messages of a limited size (max_payload).
type Limited struct {
	t      testing.TB
	dir    string
	server *server.Server
	conn   *nats.Conn
}

// StartLimited runs one, with JetStream, until the test ends.
func StartLimited(t testing.TB, maxPayload int32) *Limited {
	t.Helper()
	l := &Limited{t: t, dir: t.TempDir()}
	l.start(maxPayload, server.RANDOM_PORT)
	var err error
	if l.conn, err = nats.Connect(l.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond),
		nats.ReconnectBufSize(-1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.conn.Close()
		l.stop()
	})
	return l
}

// Conn returns a connection to it.
func (l *Limited) Conn() *nats.Conn { return l.conn }

// URL returns its address.
func (l *Limited) URL() string { return l.server.ClientURL() }

// Restart runs it again at the same address and with what it has stored, under another limit, and
// waits until Conn is back.
func (l *Limited) Restart(maxPayload int32) {
	l.t.Helper()
	l.restart(maxPayload, func() {})
}

// Copy returns a directory with what it has stored so far, for Lose.
func (l *Limited) Copy() string {
	l.t.Helper()
	dir := filepath.Join(l.t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(l.dir)); err != nil {
		l.t.Fatal(err)
	}
	return dir
}

// Lose is Restart after a power cut that took everything written since the copy was made.
func (l *Limited) Lose(maxPayload int32, since string) {
	l.t.Helper()
	l.restart(maxPayload, func() { l.dir = since })
}

func (l *Limited) restart(maxPayload int32, meanwhile func()) {
	l.t.Helper()
	port := l.server.Addr().(*net.TCPAddr).Port
	l.stop()
	meanwhile()
	l.start(maxPayload, port)
	for deadline := time.Now().Add(30 * time.Second); !l.conn.IsConnected() ||
		l.conn.MaxPayload() != int64(maxPayload); {
		if time.Now().After(deadline) {
			l.t.Fatal("the connection did not come back within 30 s")
		}
		<-time.After(time.Millisecond)
	}
}

func (l *Limited) start(maxPayload int32, port int) {
	l.t.Helper()
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: l.dir, MaxPayload: maxPayload, MaxPending: 256 << 20,
		NoSigs: true, NoLog: true,
		SyncInterval: time.Minute,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ns.Start()
	l.server = ns
	if !ns.ReadyForConnections(30 * time.Second) {
		l.t.Fatal("the server was not ready within 30 s")
	}
}

func (l *Limited) stop() {
	l.server.Shutdown()
	l.server.WaitForShutdown()
}
