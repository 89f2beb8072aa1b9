// Package natsd runs the embedded NATS server: the default engine, in this process, with its files below the data directory.
package natsd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// MaxPayload is the largest message: a vendor page (a little less is read of one) with its envelope. It is also the most that the
// server thinks wise.
const MaxPayload = 8 << 20

// startTimeout bounds the recovery of the stored streams. A million messages take about 3 s.
const startTimeout = 5 * time.Minute

// readyTurn is how long is waited between two looks at whether the start has failed.
const readyTurn = 250 * time.Millisecond

// Config of the embedded server.
type Config struct {
	Dir string // the data directory; one process at a time, held by a lock
	// SyncInterval is how often the disk is synced (0: 1 s). SyncAlways syncs at every write instead.
	SyncInterval time.Duration
	SyncAlways   bool
	// Listen is the address for subscribers (RELAY_NATS_LISTEN), "" for none. They are refused until Admit is called.
	Listen string
	// ListenCert and ListenKey are files, PEM, with which subscribers are served by TLS; both empty: in the clear.
	ListenCert, ListenKey string
	// Subscribers bounds what they may have of the server; zero fields are the defaults.
	Subscribers Limits
	// Ingress counts their failed logins; nil: nobody sees the counts.
	Ingress *ingress.Metrics
	// Prefix of the relay's streams and subjects (RELAY_NATS_PREFIX; "": relay). It counts where there are subscribers.
	Prefix string
	Log    *slog.Logger
}

// Server is a running embedded server.
type Server struct {
	server   *server.Server
	lock     *os.File
	password string
	auth     *authenticator
	mistakes *mistakes // of its clients
	watch    sync.WaitGroup
	unwatch  context.CancelFunc // ends watch
}

var (
	// ErrLocked says that another process uses the data directory.
	ErrLocked = errors.New("is in use by another relay")
	// ErrDir says that the data directory cannot be made or written.
	ErrDir = errors.New("the data directory cannot be used")
	// ErrListen says that the address for subscribers cannot be listened on.
	ErrListen = errors.New("subscribers cannot be listened for")
	// ErrCertificate says that the certificate for subscribers cannot be used.
	ErrCertificate = errors.New("the certificate for subscribers cannot be used")
)

// Start locks the data directory, starts the server and waits until its streams are recovered.
func Start(c Config) (*Server, error) {
	if err := probe(c.Listen); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDir, err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	c.Subscribers = c.Subscribers.withDefaults()
	if c.Ingress == nil {
		c.Ingress = ingress.NewMetrics(nil)
	}
	s := &Server{lock: lock, password: relay.NewID(), mistakes: newMistakes(c.Log)}
	if err := s.start(c); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(c Config) error {
	names := topology.Topology{Prefix: c.Prefix}
	if names.Prefix == "" {
		names.Prefix = "relay"
	}
	s.auth = newAuthenticator(names.Prefix, s.password, c, s.mistakes)
	opts := &server.Options{
		ServerName: "relay", JetStream: true, StoreDir: filepath.Join(c.Dir, "nats"), MaxPayload: MaxPayload, MaxPending: c.Subscribers.Pending,
		NoSigs: true, NoLog: true, DontListen: c.Listen == "", DisableShortFirstPing: true,
		SyncInterval: c.SyncInterval, SyncAlways: c.SyncAlways,
		Accounts: []*server.Account{
			server.NewAccount(relayAccount), server.NewAccount(subscribersAccount), server.NewAccount(eventsAccount),
			server.NewAccount(systemAccount),
		},
		SystemAccount:              systemAccount,
		CustomClientAuthentication: s.auth,
		// Login is judged by the relay itself; an unauthenticated connection ends soon.
		AuthTimeout: 2, MaxControlLine: 4096, JetStreamMaxStore: -1,
		MaxConn: c.Subscribers.Connections + ownConnections,
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
		if opts.TLSConfig, err = tlsConfig(c.ListenCert, c.ListenKey); err != nil {
			return err
		}
		opts.TLSTimeout = tlsTimeout
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configure the embedded NATS server: %w", err)
	}
	s.server = ns
	if err := s.auth.accounts.attach(ns); err != nil {
		return err
	}
	fatal := make(chan string, 1)
	ns.SetLoggerV2(logger{c.Log, fatal, s.mistakes}, false, false, false)
	ns.Start()
	for deadline := time.Now().Add(startTimeout); !ns.ReadyForConnections(readyTurn); {
		select {
		case said := <-fatal: // the server goes no further, and would not end by itself
			return fmt.Errorf("the embedded NATS server did not start: %s", said)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the embedded NATS server was not ready within %s; its own log lines say why", startTimeout)
		}
	}
	if err := s.auth.accounts.share(); err != nil {
		return err
	}
	if c.Listen == "" { // nobody could read the copy: a stored one is left as it is, and catches up when somebody can
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.unwatch = cancel
	s.watch.Go(func() { s.watchPending(ctx) })
	return s.auth.accounts.shareEvents(names.Events())
}

// tlsTimeout is how many seconds a subscriber has for the handshake.
const tlsTimeout = 5

// tlsConfig reads the certificate that subscribers are shown; nil without one.
func tlsConfig(cert, key string) (*tls.Config, error) {
	if cert == "" && key == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// probe listens on the subscribers' address for a moment: the server itself tells of an address it cannot have in its log only.
func probe(listen string) error {
	if listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	return nil
}

// Connect opens the relay's own in-process connection.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{nats.InProcessServer(inProcess{s}), nats.UserInfo(relayUser, s.password), nats.Name("relay"), nats.MaxReconnects(-1)}, opts...)
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
	if s.unwatch != nil {
		s.unwatch()
		s.watch.Wait()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	s.mistakes.end()
	_ = s.lock.Close() // the lock goes with it
}

// lockDir holds a lock on the directory for as long as the file is open; the kernel gives it free when the process dies.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDir, err)
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
