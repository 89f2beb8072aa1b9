package consent

import (
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
	// PublicURL is where the pages are reached from outside, without a closing slash. Without it no links are made.
	PublicURL string
	// AuthURL is the vendor's consent page, ClientID what the vendor calls this relay, Scopes what it asks for.
	AuthURL, ClientID string
	Scopes            []string
	// PKCE sends a challenge along (RFC 7636).
	PKCE bool
	// ReturnOrigins are the origins that a link's return URL may have, such as https://bms.example.
	ReturnOrigins []string
	// CallBound is how long one call to the vendor may take.
	CallBound time.Duration
	// Exclusive: no other process works on this store. What another process has begun is then a dead one's.
	Exclusive bool
	// Proxies are believed when they say for whom they speak.
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
	flights sync.WaitGroup
	flying  map[string]bool // attempts that this process works on
}

// New checks the configuration. Run must run for lists and for what other processes have left.
func New(c Config) (*Service, error) {
	if c.CallBound <= 0 {
		c.CallBound = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Service{c: c, nonce: relay.NewID(), guards: newGuards(), flying: map[string]bool{}}
	if err := s.setPublicURL(); err != nil {
		return nil, err
	}
	vendor, err := url.Parse(c.AuthURL)
	if err != nil {
		return nil, errors.New("the address of the vendor's consent page is no URL")
	}
	s.vendor = OriginOf(vendor)
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

// OriginOf returns an address's origin as browsers write it (RFC 6454): lower case, without the scheme's own port.
func OriginOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	for scheme, port := range map[string]string{"https": ":443", "http": ":80"} {
		if u.Scheme == scheme {
			host = strings.TrimSuffix(host, port)
		}
	}
	return u.Scheme + "://" + host
}

// Ready is closed once all links are known.
func (s *Service) Ready() <-chan struct{} { return s.links.Ready() }

const (
	// sweepEvery is how often attempts are looked for whose process has ended.
	sweepEvery = 10 * time.Second
	// changeBound is how long a change of a link may take.
	changeBound = 10 * time.Second
)

// Run follows the links, goes on with what other processes have left, and forgets secrets that are of no use any more,
// until ctx ends.
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
			select { // replicas do not look at the same moment
			case <-ctx.Done():
			case <-time.After(sweepEvery/2 + rand.N(sweepEvery)):
			}
		}
	})
	parts.Wait()
}

// sweep looks at the copy of all links; what has to be done is decided by the document itself.
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

// Close starts nothing more and waits for what is under way, at the latest until ctx ends: another process goes on with it
// then.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.flights.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("closing with consents under way: %w", ctx.Err())
	}
	s.stop()
	<-done
	return err
}

// dead reports whether the process of a worker has ended for certain.
func (s *Service) dead(worker string) bool {
	return s.c.Exclusive && !strings.HasPrefix(worker, s.nonce+".")
}

// errGone says that there is no such link.
var errGone = errors.New("there is no such link")

// load reads a link at the store's leader: what another replica has just written must be seen.
func (s *Service) load(ctx context.Context, id string) (relay.ConsentLink, uint64, error) {
	there := s.c.Store.Consents.Current(ctx, []string{id})[0]
	switch {
	case there.Err != nil:
		return relay.ConsentLink{}, 0, there.Err
	case there.Deleted:
		return relay.ConsentLink{}, 0, errGone
	}
	return there.Value, there.Revision, nil
}

// put makes the write of a link. The document goes by itself when it is of no interest any more.
func put(l relay.ConsentLink, revision uint64, now time.Time) store.Put[relay.ConsentLink] {
	return store.Put[relay.ConsentLink]{Key: l.ID, Value: l, Revision: revision, TTL: relay.ConsentLinkLeft(l.ExpiresAt, now)}
}

// change applies a step to a link until it is stored, and returns the link as it is then. A step that returns false changes
// nothing. After a conflict, or a write that may have been stored, it is applied to the link as it is by then.
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
		select {
		case <-ctx.Done():
			return relay.ConsentLink{}, r.Err
		case <-time.After(rand.N(time.Duration(min(try+1, 10)) * 10 * time.Millisecond)):
		}
	}
}
