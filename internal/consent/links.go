package consent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// maxOpenLinks is how many links of a connection may be open at once.
const maxOpenLinks = 20

// The reasons why a link cannot be made.
var (
	ErrNoPublicURL = errors.New("RELAY_PUBLIC_URL is not set: nobody could open the link")
	ErrInsecure    = errors.New("RELAY_PUBLIC_URL does not begin with https://: browsers keep no cookie for it")
	ErrTooMany     = errors.New("the connection has too many open links")
	ErrReturnURL   = errors.New("must be an https URL whose origin is in RELAY_CONSENT_RETURN_ORIGINS")
)

// Usable returns the reason why no links can be made here, or nil.
func (s *Service) Usable() error {
	switch {
	case s.public == nil:
		return ErrNoPublicURL
	case s.public.Scheme != "https" && !isLoopback(s.public.Hostname()):
		return ErrInsecure
	}
	return nil
}

// isLoopback reports whether a host is this machine. Browsers treat http to it as secure.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// CheckReturnURL returns ErrReturnURL for an address that a result page must not link to. "" means
// none and is valid.
func (s *Service) CheckReturnURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil ||
		!slices.Contains(s.c.ReturnOrigins, ingress.OriginOf(u)) {
		return ErrReturnURL
	}
	return nil
}

// NewLink describes a link to be made.
type NewLink struct {
	// Token are TokenBytes random bytes from which the link's URL is made. The same bytes make the
	// same link.
	Token      []byte
	Connection relay.Connection
	Force      bool
	ReturnURL  string
	CreatedBy  string
}

// Made is a link and its URL, which is only shown this once.
type Made struct {
	relay.ConsentLink
	URL string
}

// Make makes links, one for each connection. If it returns an error, some may have been made, but
// nobody has seen them.
func (s *Service) Make(ctx context.Context, wanted []NewLink) ([]Made, error) {
	if err := s.Usable(); err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	made := make([]Made, len(wanted))
	puts := make([]store.Put[relay.ConsentLink], len(wanted))
	for i, w := range wanted {
		if err := s.CheckReturnURL(w.ReturnURL); err != nil {
			return nil, err
		}
		open, _ := s.links.Page(w.Connection.ID, "", maxOpenLinks, func(l relay.ConsentLink) bool {
			return l.ID != linkID(tokenOf(w.Token)) && l.Generation == w.Connection.Generation &&
				l.State(now) == relay.ConsentLinkOpen
		})
		if len(open) >= maxOpenLinks {
			return nil, fmt.Errorf("connection %s: %w", w.Connection.ID, ErrTooMany)
		}
		token := tokenOf(w.Token)
		l := relay.ConsentLink{
			ID: linkID(token), TokenHash: hashOf(token),
			Connection: w.Connection.ID, Generation: w.Connection.Generation, CreatedBy: w.CreatedBy,
			Force: w.Force, ReturnURL: w.ReturnURL, CreatedAt: now, ExpiresAt: now.Add(relay.ConsentLinkLife),
		}
		made[i] = Made{ConsentLink: l, URL: s.c.PublicURL + pagesPath + token}
		puts[i] = put(l, 0, now)
	}
	for i, r := range s.c.Store.Consents.PutAll(ctx, puts) {
		if errors.Is(r.Err, store.ErrConflict) { // the same request has already made it
			var there relay.ConsentLink
			if there, r.Seq, r.Err = s.load(ctx, made[i].ID); r.Err == nil {
				made[i].ConsentLink = there
			}
		}
		if r.Err != nil {
			return nil, fmt.Errorf("store a link of connection %s: %w", made[i].Connection, r.Err)
		}
		s.links.Put(made[i].ID, made[i].ConsentLink, r.Seq)
		s.logOf(made[i].ConsentLink).InfoContext(ctx, "a consent link was made", "by", made[i].CreatedBy)
	}
	return made, nil
}

// Page returns links sorted by id, of one connection or of all (""), and whether there are more.
// Pass may be nil.
func (s *Service) Page(
	connection, after string, limit int, pass func(relay.ConsentLink) bool,
) (links []store.Entry[relay.ConsentLink], more bool) {
	return s.links.Page(connection, after, limit, pass)
}

// Withdraw ends a link of a connection. Nothing more can be begun with it, and what was begun ends
// without a change, unless its tokens are already being applied. It returns store.ErrNotFound if
// the connection has no such link.
func (s *Service) Withdraw(ctx context.Context, connection relay.Connection, id string) error {
	missing := false
	_, err := s.change(ctx, id, func(l *relay.ConsentLink) bool {
		missing = l.Connection != connection.ID || l.Generation != connection.Generation
		if missing || l.State(time.Now()) != relay.ConsentLinkOpen {
			return false
		}
		at := time.Now().UTC()
		l.WithdrawnAt = &at
		return true
	})
	if err == nil && missing {
		err = store.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("withdraw link %s: %w", id, err)
	}
	s.c.Log.InfoContext(ctx, "a consent link was withdrawn", "connection", connection.ID, "link", id)
	return nil
}
