package consent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/ingress"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// The paths that browsers use. For consents nothing else must be reachable from outside.
const (
	pagesPath    = "/consent/"
	callbackPath = "/oauth/callback"
	stylePath    = pagesPath + "style.css"
	resultPath   = "/result" // behind a state
)

const (
	// readBound is how long a request may take to arrive, and a response to be read.
	readBound = 30 * time.Second
	// maxBody bounds the body of the button's form in bytes, maxQuery the query of the redirect
	// back.
	maxBody  = 4 << 10
	maxQuery = 16 << 10
	// storePatience is how long a page waits for the store.
	storePatience = 4 * time.Second
)

// Beside puts the pages beside an API.
func Beside(pages, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == callbackPath || strings.HasPrefix(r.URL.Path, pagesPath) {
			pages.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// visit is one request.
type visit struct {
	id   string
	addr netip.Addr
	now  time.Time
	// for the log
	page, link, connection string
	err                    error
	leave                  func() // gives back the place that the request has taken
}

// ServeHTTP serves the pages.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{id: relay.NewID(), addr: s.c.Proxies.ClientAddr(r), now: time.Now(), leave: func() {}}
	w.Header().Set("X-Request-Id", v.id)
	s.protect(w)
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(v.now.Add(readBound))
	_ = control.SetWriteDeadline(v.now.Add(resultBound + readBound))
	defer func() {
		if fault := recover(); fault != nil {
			if err, _ := fault.(error); errors.Is(err, http.ErrAbortHandler) {
				panic(fault)
			}
			v.page, v.err = "fault", fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
			s.c.Log.ErrorContext(r.Context(), "a consent page failed", "request_id", v.id, "error", v.err)
			s.show(w, pageOfRetry("trouble", 5*time.Second))
		}
	}()
	defer func() { v.leave() }()
	if r.URL.Path == stylePath && reads(r) {
		v.page = "style"
		serveStyle(w)
	} else {
		s.answer(w, v, s.route(w, r, v))
	}
	s.log(r, v)
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// route returns the page for a path. The last part of the path may be a secret, so it is never
// logged.
func (s *Service) route(w http.ResponseWriter, r *http.Request, v *visit) *page {
	path, read := r.URL.Path, reads(r)
	switch {
	case !s.guards.allow(v.addr, read && s.comesBack(r)):
		return pageOfRetry("haste", time.Second)
	case len(r.URL.RawQuery) > maxQuery:
		return newPage("nonsense")
	}
	select {
	case s.guards.places <- struct{}{}:
		v.leave = sync.OnceFunc(func() { <-s.guards.places })
	default:
		return pageOfRetry("haste", 5*time.Second)
	}
	credential, ofResult := strings.CutSuffix(strings.TrimPrefix(path, pagesPath), resultPath)
	switch {
	case path == callbackPath && read:
		return s.callback(w, r, v)
	case path == callbackPath:
		return notAllowed(w, "GET, HEAD")
	case strings.Contains(credential, "/"):
		return newPage("unknown")
	case ofResult && read:
		v.leave() // it waits in a place of another kind
		return s.result(w, r, v, credential)
	case ofResult:
		return notAllowed(w, "GET, HEAD")
	case read:
		return s.open(w, r, v, credential)
	case r.Method == http.MethodPost:
		return s.press(w, r, v, credential)
	}
	return notAllowed(w, "GET, HEAD, POST")
}

// comesBack reports whether a request seems to come from a browser on its way back from the vendor,
// as far as that can be seen without the store: it names an attempt and has a cookie with that
// attempt's name.
func (s *Service) comesBack(r *http.Request) bool {
	state, ofResult := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, pagesPath), resultPath)
	switch {
	case ofResult:
	case r.URL.Path == callbackPath && len(r.URL.RawQuery) <= maxQuery:
		state = r.URL.Query().Get("state")
	default:
		return false
	}
	c, ok := readCredential(state)
	return ok && c.attempt != "" && len(r.CookiesNamed(s.cookieName(c.attempt))) > 0
}

func notAllowed(w http.ResponseWriter, allow string) *page {
	w.Header().Set("Allow", allow)
	p := newPage("nonsense")
	p.Status = http.StatusMethodNotAllowed
	return p
}

// answer sends a page and records its name for the log.
func (s *Service) answer(w http.ResponseWriter, v *visit, p *page) {
	v.page = p.Name
	if p.Reference == "" {
		p.Reference = v.id
	}
	s.show(w, p)
}

// refuse returns the page for a request with an unknown token or state. A network that keeps
// guessing must wait.
func (s *Service) refuse(w http.ResponseWriter, r *http.Request, v *visit, p *page) *page {
	f := s.guards.guesses.Failed(v.addr, v.now)
	if f.Log {
		s.c.Log.WarnContext(r.Context(), "a consent page was asked for that there is not", "remote", v.addr.String(),
			"more_since_last_line", f.More, "more_of_others", f.Others, "request_id", v.id)
	}
	if f.Slowed {
		w.Header().Set("Connection", "close")
		return pageOfRetry("haste", f.RetryAfter)
	}
	return p
}

// trouble returns the page for a request if the store cannot be used.
func (s *Service) trouble(v *visit, err error) *page {
	v.err = err
	return pageOfRetry("trouble", 5*time.Second)
}

// admitted loads the link that a credential opens. If it cannot, it returns the page that explains this,
// which is the page unknown if there is no such link.
func (s *Service) admitted(
	w http.ResponseWriter, r *http.Request, v *visit, text string, unknown *page,
) (l relay.ConsentLink, c credential, refusal *page) {
	c, ok := readCredential(text)
	if !ok {
		return l, c, s.refuse(w, r, v, unknown)
	}
	ctx, cancel := context.WithTimeout(r.Context(), storePatience)
	defer cancel()
	l, _, err := s.load(ctx, c.link)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && c.token != "" && !matches(l.TokenHash, c.token),
		err == nil && c.attempt != "" && find(&l, c.attempt) == nil:
		return l, c, s.refuse(w, r, v, unknown)
	case err != nil:
		return l, c, s.trouble(v, err)
	}
	v.link, v.connection = l.ID, l.Connection
	return l, c, nil
}

// log writes the access line, without any secret.
func (s *Service) log(r *http.Request, v *visit) {
	level := slog.LevelInfo
	if v.page == "style" {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("page", v.page),
		slog.Duration("duration", time.Since(v.now).Round(time.Microsecond)),
		slog.String("request_id", v.id), slog.String("remote", v.addr.String()),
	}
	if v.link != "" {
		attrs = append(attrs, slog.String("link", v.link), slog.String("connection", v.connection))
	}
	if v.err != nil {
		attrs = append(attrs, slog.String("error", v.err.Error()))
		level = max(level, slog.LevelWarn)
	}
	s.c.Log.LogAttrs(r.Context(), level, "consent page", attrs...)
}

// cookieName returns the name of an attempt's cookie. With the prefix, browsers accept it only from
// this host and by TLS.
func (s *Service) cookieName(attempt string) string {
	name := "consent-" + attempt[:16]
	if s.secure() {
		return "__Host-" + name
	}
	return name
}

func (s *Service) secure() bool { return s.public == nil || s.public.Scheme == "https" }

// sameBrowser reports whether a request comes from the browser in which the attempt began.
func (s *Service) sameBrowser(r *http.Request, a relay.ConsentAttempt) bool {
	fits := func(c *http.Cookie) bool { return matches(a.Cookie, c.Value) }
	return slices.ContainsFunc(r.CookiesNamed(s.cookieName(a.ID)), fits)
}

// fromOurPage reports whether a POST was sent by the button of one of these pages. Browsers report
// that in Sec-Fetch-Site. Others are judged by Origin, which they omit or send as null because the
// page sends no referrer.
func (s *Service) fromOurPage(r *http.Request) bool {
	if site := r.Header.Values("Sec-Fetch-Site"); len(site) > 0 {
		return len(site) == 1 && site[0] == "same-origin"
	}
	for _, origin := range r.Header.Values("Origin") {
		if origin != "null" && (s.public == nil || origin != ingress.OriginOf(s.public)) {
			return false
		}
	}
	return r.Header.Get("Origin") != "" || r.Header.Get("Referer") == ""
}
