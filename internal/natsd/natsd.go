// Package natsd runs the embedded NATS server: the default engine, in this process, with its files below the data directory.
package natsd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/relay"
)

// MaxPayload is the largest message: a vendor page (a little less is read of one) with its envelope. It is also the most that the
// server thinks wise.
const MaxPayload = 8 << 20

// The accounts of the embedded server: nothing of the relay's can be reached from the subscribers'.
const (
	relayAccount       = "RELAY"
	subscribersAccount = "SUBSCRIBERS"
	systemAccount      = "SYS"
	relayUser          = "relay"
)

// startTimeout bounds the recovery of the stored streams. A million messages take about 3 s.
const startTimeout = 5 * time.Minute

// Config of the embedded server.
type Config struct {
	Dir string // the data directory; one process at a time, held by a lock
	// SyncInterval is how often the disk is synced (0: 1 s). SyncAlways syncs at every write instead.
	SyncInterval time.Duration
	SyncAlways   bool
	// Listen is the address for subscribers (RELAY_NATS_LISTEN), "" for none. They are refused until Admit is called.
	Listen string
	Log    *slog.Logger
}

// Server is a running embedded server.
type Server struct {
	server   *server.Server
	lock     *os.File
	password string
	auth     *authenticator
}

// ErrLocked says that another process uses the data directory.
var ErrLocked = errors.New("is in use by another relay")

// Start locks the data directory, starts the server and waits until its streams are recovered.
func Start(c Config) (*Server, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, password: relay.NewID()}
	if err := s.start(c); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(c Config) error {
	s.auth = newAuthenticator(s.password, c.Log)
	opts := &server.Options{
		ServerName: "relay", JetStream: true, StoreDir: filepath.Join(c.Dir, "nats"), MaxPayload: MaxPayload, MaxPending: 256 << 20,
		NoSigs: true, NoLog: true, DontListen: c.Listen == "", DisableShortFirstPing: true,
		SyncInterval: c.SyncInterval, SyncAlways: c.SyncAlways,
		Accounts: []*server.Account{
			server.NewAccount(relayAccount), server.NewAccount(subscribersAccount), server.NewAccount(systemAccount),
		},
		SystemAccount:              systemAccount,
		CustomClientAuthentication: s.auth,
		// Login is judged by the relay itself; an unauthenticated connection ends soon.
		AuthTimeout: 2, MaxControlLine: 4096, JetStreamMaxStore: -1,
	}
	if opts.SyncInterval == 0 {
		opts.SyncInterval = time.Second
	}
	if c.Listen != "" {
		host, port, err := splitListen(c.Listen)
		if err != nil {
			return err
		}
		opts.Host, opts.Port = host, port
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configure the embedded NATS server: %w", err)
	}
	s.server = ns
	if err := s.auth.attach(ns); err != nil {
		return err
	}
	ns.SetLoggerV2(logger{c.Log}, false, false, false)
	ns.Start()
	if !ns.ReadyForConnections(startTimeout) {
		return fmt.Errorf("the embedded NATS server was not ready within %s; its own log lines say why", startTimeout)
	}
	return s.auth.share()
}

// Connect opens the relay's own in-process connection.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{nats.InProcessServer(s.server), nats.UserInfo(relayUser, s.password), nats.Name("relay"), nats.MaxReconnects(-1)}, opts...)
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	return nc, nil
}

// Addr answers where subscribers connect, "" when the server does not listen.
func (s *Server) Addr() string {
	if a := s.server.Addr(); a != nil {
		return a.String()
	}
	return ""
}

// Stop ends the server and gives the data directory free.
func (s *Server) Stop() {
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	_ = s.lock.Close() // the lock goes with it
}

// lockDir holds a lock on the directory for as long as the file is open; the kernel gives it free when the process dies.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s %w: stop it, or give this one a directory of its own (RELAY_DATA_DIR)", dir, ErrLocked)
		}
		return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
	}
	return f, nil
}
