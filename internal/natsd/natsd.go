// Package natsd runs the embedded NATS server: the default store and bus, in this process, with its
// files below the data directory. Subscribers log in with API keys, hear only what their key may
// see, and cannot use up the relay's memory or connections. Begin with Start; accounts.go has the
// accounts, and events.go the copy of the log that services read.
package natsd

import (
	"cmp"
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

// MaxPayload is the size of the largest message: a vendor page (which is read up to a little less)
// with its envelope. It is also the largest size that the server recommends.
const MaxPayload = 8 << 20

// startTimeout is the time limit for recovering the stored streams. A million messages take about 3
// s.
const startTimeout = 5 * time.Minute

// readyTurn is the interval between two checks whether the start has failed.
const readyTurn = 250 * time.Millisecond

// Config configures the embedded server.
type Config struct {
	Dir string // the data directory; a lock allows one process at a time
	// SyncInterval is how often the disk is synced (0: every second). SyncAlways syncs after every
	// write instead.
	SyncInterval time.Duration
	SyncAlways   bool
	// Listen is the address for subscribers (RELAY_NATS_LISTEN), "" for none. They are refused
	// until Admit is called.
	Listen string
	// ListenCert and ListenKey are PEM files for serving subscribers by TLS. If both are empty,
	// connections are not encrypted.
	ListenCert, ListenKey string
	// Subscribers limits the subscribers; zero fields mean the defaults.
	Subscribers Limits
	// Ingress counts their failed logins; nil means that the counts are not exposed.
	Ingress *ingress.Metrics
	// Prefix is the prefix of the relay's streams and subjects (RELAY_NATS_PREFIX; "": relay). It
	// is used if there are subscribers.
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
	// ErrLocked means that another process uses the data directory.
	ErrLocked = errors.New("is in use by another relay")
	// ErrDir means that the data directory cannot be created or written.
	ErrDir = errors.New("the data directory cannot be used")
	// ErrListen means that the address for subscribers cannot be listened on.
	ErrListen = errors.New("subscribers cannot be listened for")
	// ErrCertificate means that the certificate for subscribers cannot be used.
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
	names := topology.Topology{Prefix: cmp.Or(c.Prefix, "relay")}
	s.auth = newAuthenticator(names.Prefix, s.password, c, s.mistakes)
	opts := &server.Options{
		ServerName: "relay", JetStream: true, StoreDir: filepath.Join(c.Dir, "nats"),
		MaxPayload: MaxPayload, MaxPending: c.Subscribers.Pending,
		NoSigs: true, NoLog: true, DontListen: c.Listen == "", DisableShortFirstPing: true,
		SyncInterval: cmp.Or(c.SyncInterval, time.Second), SyncAlways: c.SyncAlways,
		Accounts: []*server.Account{
			server.NewAccount(relayAccount), server.NewAccount(subscribersAccount), server.NewAccount(eventsAccount),
			server.NewAccount(systemAccount),
		},
		SystemAccount:              systemAccount,
		CustomClientAuthentication: s.auth,
		// The relay itself checks logins; a connection without a login is closed soon.
		AuthTimeout: 2, MaxControlLine: 4096, JetStreamMaxStore: -1,
		MaxConn: c.Subscribers.Connections + ownConnections,
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
		case text := <-fatal: // the server does not continue, and would not end by itself
			return fmt.Errorf("the embedded NATS server did not start: %s", text)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the embedded NATS server was not ready within %s; its own log lines say why",
				startTimeout)
		}
	}
	if err := s.auth.accounts.share(); err != nil {
		return err
	}
	if c.Listen == "" { // nobody could read the copy: a stored one is left as it is, and catches up later
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.unwatch = cancel
	s.watch.Go(func() { s.watchPending(ctx) })
	return s.auth.accounts.shareEvents(names.Events())
}

// tlsTimeout is how many seconds a subscriber has for the handshake.
const tlsTimeout = 5

// tlsConfig reads the certificate for subscribers. It returns nil if there is none.
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

// probe listens on the subscribers' address for a moment. The server itself reports an address that
// it cannot use only in its log.
func probe(listen string) error {
	if listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", listen)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	return nil
}

// Connect opens the relay's own in-process connection.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{
		nats.InProcessServer(inProcess{s}), nats.UserInfo(relayUser, s.password), nats.Name("relay"),
		nats.MaxReconnects(-1),
	}, opts...)
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	return nc, nil
}

// Addr returns the address for subscribers, or "" if the server does not listen.
func (s *Server) Addr() string {
	if a := s.server.Addr(); a != nil {
		return a.String()
	}
	return ""
}

// Stop ends the server and releases the data directory.
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
	_ = s.lock.Close() // releases the lock
}

// lockDir locks the directory for as long as the file is open. The kernel releases the lock when
// the process dies.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil,
				fmt.Errorf("data directory %s %w: stop it, or give this one a directory of its own (RELAY_DATA_DIR)",
					dir, ErrLocked)
		}
		return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
	}
	return f, nil
}
