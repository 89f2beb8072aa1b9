package consent

import (
	"bytes"
	_ "embed" // the page and its style
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

//go:embed page.html
var pageText string

//go:embed style.css
var styleText []byte

var pageTemplates = template.Must(template.New("").Funcs(template.FuncMap{"when": whenText}).Parse(pageText))

// page is one page. Their texts are in page.html and texts.go.
type page struct {
	Name        string // of its template, and in the log
	Status      int
	Tone, Title string
	Links       []link
	// Reference identifies the case for somebody who asks for help.
	Reference  string
	RetryAfter time.Duration
	Location   string // where the browser is sent instead

	// What its text is about, as far as it has a use for it.
	Link               relay.ConsentLink
	Result             relay.ConsentResult
	Facts              []fact
	Scopes             []string // in words
	Action             string   // where the button leads
	Until              string   // the vendor has asked for no requests until then
	Expected           string   // sites
	AskAgain           bool     // the link can no longer be used
	RedirectURI        string
	PKCE               bool
	Style, Host, Where string // set when it is shown; Where names the host in a sentence
}

// IsBrief reports whether to come back in a moment.
func (p page) IsBrief() bool { return p.RetryAfter <= 10*time.Second }

type fact struct{ Name, Value string }

type link struct {
	Text, Address string
	Main          bool
}

// policy is the pages' Content-Security-Policy. Form-action must contain the origin of the vendor's
// page, because browsers check it for redirects after a form, too.
func (s *Service) policy() string {
	forms := strings.TrimSpace("'self' " + s.vendor)
	return "default-src 'none'; style-src 'self'; form-action " + forms + "; base-uri 'none'; frame-ancestors 'none'"
}

// show sends a page.
func (s *Service) show(w http.ResponseWriter, p *page) {
	if p.Location != "" {
		w.Header().Set("Location", p.Location)
		w.WriteHeader(p.Status)
		return
	}
	p.Style, p.Where = s.path(stylePath), s.host()
	if s.public != nil {
		p.Host = s.public.Host
	}
	var body bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&body, p.Name, p); err != nil { // the template and its data are our own
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body.Bytes()) // the client may be gone
}

func (s *Service) host() string {
	if s.public == nil {
		return "this address"
	}
	return s.public.Host
}

// path returns a path below the public address, as a browser sees it.
func (s *Service) path(p string) string {
	if s.public == nil {
		return p
	}
	return s.public.EscapedPath() + p
}

// Starting returns a handler for the pages' addresses while the relay starts. It asks users to try
// again.
func Starting(publicURL string) http.Handler {
	s := &Service{c: Config{PublicURL: publicURL}}
	_ = s.setPublicURL() // an invalid address is not shown on the page
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.protect(w)
		if r.URL.Path == stylePath {
			serveStyle(w)
			return
		}
		s.show(w, pageOfRetry("starting", 5*time.Second))
	})
}

func serveStyle(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(styleText)
}

// protect sets the headers that every response has.
func (s *Service) protect(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", s.policy())
}
