package consent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Config is what New needs.
type Config struct {
	Store *store.Store
	// Client, Tokens and Budget reach the vendor.
	Client *audatex.Client
	Tokens *audatex.Tokens
	Budget *audatex.Budget
	// PublicURL is the address of the pages as seen from outside, without a trailing slash. Without
	// it no links are made.
	PublicURL string
	// AuthURL is the vendor's consent page, ClientID the vendor's name for this relay, Scopes what
	// the relay asks for.
	AuthURL, ClientID string
	Scopes            []string
	// PKCE adds a challenge to the request (RFC 7636).
	PKCE bool
	// ReturnOrigins are the origins that a link's return URL may have, such as https://bms.example.
	ReturnOrigins []string
	// CallBound is how long one call to the vendor may take.
	CallBound time.Duration
	// Exclusive means that no other process works on this store. Attempts of another process are
	// then those of a dead one.
	Exclusive bool
	// Proxies are trusted to name the address that a request came from.
	Proxies ingress.Proxies
	Metrics *Metrics
	Log     *slog.Logger
}

// Service makes links and serves their pages.
type Service struct {
	c      Config
	public *url.URL // nil without a PublicURL
	vendor string   // origin of the vendor's consent page
	nonce  string   // of this process
	links  *store.Mirror[relay.ConsentLink]
	guards *guards

	stopped context.Context // ends when Close has waited long enough
	stop    context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	active  map[string]bool // the attempts that this process is working on
}

// New checks the configuration. Lists are complete, and the attempts of other processes are
// continued, only while Run runs.
func New(c Config) (*Service, error) {
	c.CallBound = cmp.Or(max(c.CallBound, 0), 30*time.Second)
	c.Log = cmp.Or(c.Log, slog.Default())
	c.Metrics = cmp.Or(c.Metrics, NewMetrics(nil))
	s := &Service{c: c, nonce: relay.NewID(), guards: newGuards(), active: map[string]bool{}}
	if err := s.setPublicURL(); err != nil {
		return nil, err
	}
	vendor, err := url.Parse(c.AuthURL)
	if err != nil {
		return nil, errors.New("the address of the vendor's consent page is no URL")
	}
	s.vendor = ingress.OriginOf(vendor)
	s.links = store.NewMirror(store.MirrorConfig[relay.ConsentLink]{
		Bucket: c.Store.Consents, Log: c.Log, What: "consent link",
		Group: func(l relay.ConsentLink) string { return l.Connection },
	})
	s.stopped, s.stop = context.WithCancel(context.Background())
	return s, nil
}

func (s *Service) setPublicURL() error {
	if s.c.PublicURL = strings.TrimSuffix(s.c.PublicURL, "/"); s.c.PublicURL == "" {
		return nil
	}
	public, err := url.Parse(s.c.PublicURL)
	if err != nil {
		return errors.New("the public address is no URL")
	}
	s.public = public
	return nil
}

// Ready is closed once all links have been read.
func (s *Service) Ready() <-chan struct{} { return s.links.Ready() }

const (
	// sweepEvery is how often Run looks for attempts whose process has ended.
	sweepEvery = 10 * time.Second
	// changeBound is how long a change of a link may take.
	changeBound = 10 * time.Second
)

// Run follows the links, continues the attempts of other processes, and removes secrets that are no
// longer of use, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { s.links.Run(ctx) })
	parts.Go(func() {
		select {
		case <-s.links.Ready():
		case <-ctx.Done():
		}
		for ctx.Err() == nil {
			s.sweep(ctx)
			backoff.Sleep(ctx, sweepEvery/2+rand.N(sweepEvery)) // replicas should not sweep at the same moment
		}
	})
	parts.Wait()
}

// sweep goes through the copies of all links. The action is decided again on the document
// itself.
func (s *Service) sweep(ctx context.Context) {
	now := time.Now()
	for _, id := range s.links.Keys("") {
		e, there := s.links.Get(id)
		if !there || ctx.Err() != nil {
			continue
		}
		l := e.Value
		for _, a := range l.Attempts {
			if working(a) && (overdue(a, now) || s.dead(a.Worker)) {
				s.resume(id, a.ID)
			}
		}
		if tidy(&l, now) {
			_, _ = s.change(ctx, id, func(l *relay.ConsentLink) bool { return tidy(l, time.Now()) })
		}
	}
}

// Close prevents new attempts and waits for those under way, until ctx ends at the latest. Another
// process continues what is left then.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	inTime := context.AfterFunc(ctx, s.stop)
	s.running.Wait()
	s.stop()
	if !inTime() {
		return fmt.Errorf("closing with consents under way: %w", ctx.Err())
	}
	return nil
}

// dead reports whether the process of a worker has certainly ended.
func (s *Service) dead(worker string) bool {
	return s.c.Exclusive && !strings.HasPrefix(worker, s.nonce+".")
}

// load reads a link at the store's leader, so that it sees what another replica has just written. It
// returns store.ErrNotFound if there is no such link.
func (s *Service) load(ctx context.Context, id string) (relay.ConsentLink, uint64, error) {
	return s.c.Store.Consents.GetAtLeader(ctx, id)
}

// put returns the write of a link. The document expires when it is no longer of interest.
func put(l relay.ConsentLink, revision uint64, now time.Time) store.Put[relay.ConsentLink] {
	return store.Put[relay.ConsentLink]{Key: l.ID, Value: l, Revision: revision,
		TTL: relay.ConsentLinkLeft(l.ExpiresAt, now)}
}

// change applies a step to a link until it is stored, and returns the resulting link. A step that
// returns false changes nothing. After a conflict, or a write that may have been stored, the step
// is applied again to the link as it is then.
func (s *Service) change(
	ctx context.Context, id string, step func(*relay.ConsentLink) bool,
) (relay.ConsentLink, error) {
	ctx, cancel := context.WithTimeout(ctx, changeBound)
	defer cancel()
	for try := 0; ; try++ {
		l, revision, err := s.load(ctx, id)
		if err != nil {
			return relay.ConsentLink{}, err
		}
		if !step(&l) {
			return l, nil
		}
		r := s.c.Store.Consents.PutAll(ctx, []store.Put[relay.ConsentLink]{put(l, revision, time.Now())})[0]
		if r.Err == nil {
			s.links.Put(id, l, r.Seq)
			return l, nil
		}
		if !errors.Is(r.Err, store.ErrConflict) && !errors.Is(r.Err, store.ErrUnclear) {
			return relay.ConsentLink{}, r.Err
		}
		if !backoff.Sleep(ctx, rand.N(time.Duration(min(try+1, 10))*10*time.Millisecond)) {
			return relay.ConsentLink{}, r.Err
		}
	}
}
