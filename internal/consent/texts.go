package consent

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
)

// pageKind is what all pages of a name have in common. Their text is the template of that name in page.html.
type pageKind struct {
	status int
	tone   string // good, bad, warn or plain
	title  string
}

const (
	titleConnected = "Connected: %s"
	titleInvalid   = "This link is no longer valid"
)

var pageKinds = map[string]pageKind{
	"consent":        {http.StatusOK, "plain", "Allow access to your parts orders at Audatex"},
	"used":           {http.StatusGone, "good", "This link has been used: consent was given"},
	"expired":        {http.StatusGone, "warn", "This link has expired"},
	"withdrawn":      {http.StatusGone, "warn", titleInvalid},
	"unknown":        {http.StatusNotFound, "warn", "This link is not known"},
	"never-seen":     {http.StatusNotFound, "warn", "Nobody here has asked Audatex for this"},
	"other-browser":  {http.StatusForbidden, "warn", "This was begun in another browser"},
	"late":           {http.StatusGone, "warn", "That took too long"},
	"no-code":        {http.StatusBadRequest, "bad", "The answer from Audatex is not complete"},
	"waiting":        {http.StatusOK, "plain", "This is taking longer than usual"},
	"foreign-button": {http.StatusForbidden, "warn", "Please press the button on the relay's own page"},
	"nonsense":       {http.StatusBadRequest, "warn", "This cannot be understood"},
	"haste":          {http.StatusTooManyRequests, "warn", "Too many requests"},
	"trouble":        {http.StatusServiceUnavailable, "bad", "The relay cannot do this right now"},
	"starting":       {http.StatusServiceUnavailable, "plain", "The relay is starting"},

	resultName(relay.ConsentConnected):    {http.StatusOK, "good", titleConnected},
	resultName(relay.ConsentUnchecked):    {http.StatusOK, "good", titleConnected},
	resultName(relay.ConsentAlready):      {http.StatusOK, "good", "Consent had been given already"},
	resultName(relay.ConsentDenied):       {http.StatusOK, "warn", "You did not allow the access"},
	resultName(relay.ConsentWrongSite):    {http.StatusOK, "bad", "You logged in for another site"},
	resultName(relay.ConsentScopeMissing): {http.StatusOK, "bad", "The consent does not cover what is needed"},
	resultName(relay.ConsentClient):       {http.StatusOK, "bad", "Audatex does not accept this relay"},
	resultName(relay.ConsentCode):         {http.StatusOK, "warn", "Audatex no longer accepts this answer"},
	resultName(relay.ConsentToken):        {http.StatusOK, "bad", "Audatex does not accept its own answer"},
	resultName(relay.ConsentVendor):       {http.StatusOK, "bad", "Audatex did not answer"},
	resultName(relay.ConsentInterrupted):  {http.StatusOK, "warn", "The relay was interrupted"},
	resultName(relay.ConsentWithdrawn):    {http.StatusOK, "warn", titleInvalid},
	resultName(relay.ConsentGone):         {http.StatusOK, "warn", titleInvalid},
}

func resultName(o relay.ConsentOutcome) string { return "result-" + string(o) }

// newPage returns the page of a name.
func newPage(name string) *page {
	k := pageKinds[name]
	return &page{Name: name, Status: k.status, Tone: k.tone, Title: k.title}
}

// redirect sends the browser elsewhere. The name is for the log.
func redirect(name, to string) *page {
	return &page{Name: name, Status: http.StatusSeeOther, Location: to}
}

// maxShownSites bounds the sites that a page lists.
const maxShownSites = 10

// whenText formats a time for readers in any zone.
func whenText(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04") + " UTC" }

// scopeTexts describe scopes in plain words.
func scopeTexts(scopes []string) []string {
	texts := make([]string, len(scopes))
	for i, scope := range scopes {
		switch strings.ToLower(scope) {
		case "bms.basic":
			texts[i] = "Be told when something happens to your orders, and look up assessments by their number (" +
				scope + ")"
		case "bms.partsorders", "bms.partorders":
			texts[i] = "Read your parts orders: the parts, prices, status and delivery dates (" + scope + ")"
		case "referencedata.company":
			texts[i] = "See which site and company you belong to, so that the right site is connected (" + scope + ")"
		default:
			texts[i] = "What Audatex calls " + scope
		}
	}
	return texts
}

// siteTexts returns the connection's sites as people know them.
func siteTexts(c relay.Connection) string {
	texts := each.Of(slices.Sorted(maps.Keys(c.Sites)), func(id string) string {
		return fmt.Sprintf("%s (Audatex site %s)", c.Sites[id], id)
	})
	if c.Site != "" && !slices.Contains(slices.Collect(maps.Values(c.Sites)), c.Site) {
		texts = append([]string{c.Site}, texts...)
	}
	return listed(texts, "and %d more")
}

// expectedText lists the vendor's sites that a connection is for.
func expectedText(c relay.Connection) string {
	return listed(slices.Sorted(maps.Keys(c.Sites)), "%d more")
}

// listed joins texts. Of many it only has how many more there are.
func listed(texts []string, rest string) string {
	if more := len(texts) - maxShownSites; more > 1 {
		texts = append(texts[:maxShownSites], fmt.Sprintf(rest, more))
	}
	return strings.Join(texts, ", ")
}

// connectionFacts describe the connection that a page is about.
func connectionFacts(c relay.Connection) []fact {
	covers := map[relay.Level]string{
		relay.LevelSite: "one site", relay.LevelCompany: "every site of the company", relay.LevelUser: "one user",
	}[c.Level]
	return []fact{{"Site", siteTexts(c)}, {"Connection", c.ID}, {"Consent covers", covers}}
}

// foundFacts describe who has consented.
func foundFacts(f relay.ConsentFound) []fact {
	facts := []fact{
		{"Your Audatex site", f.SiteID}, {"Company code", f.CompanyCode}, {"Terminal", f.TerminalID},
		{"Audatex says you are", f.Account},
	}
	return slices.DeleteFunc(facts, func(f fact) bool { return f.Value == "" })
}

// pageOfConsent asks for consent. Paused is the time until which the vendor has asked for no
// requests.
func (s *Service) pageOfConsent(l relay.ConsentLink, c relay.Connection, credential string, paused time.Time) *page {
	p := newPage("consent")
	p.Link, p.Reference, p.Scopes, p.Action = l, l.ID, scopeTexts(s.c.Scopes), s.path(pagesPath+credential)
	p.Facts = append([]fact{
		{"Who asks", "Audatex relay at " + s.host()}, {"Known to Audatex as", s.c.ClientID},
	}, connectionFacts(c)...)
	if !paused.IsZero() {
		p.Until = whenText(paused.Add(time.Minute - 1).Truncate(time.Minute))
	}
	return p
}

// pageOfClosedLink explains why a link can no longer be used.
func (s *Service) pageOfClosedLink(l relay.ConsentLink, state relay.ConsentLinkState) *page {
	if state == relay.ConsentLinkOpen { // the connection is gone
		state = relay.ConsentLinkWithdrawn
	}
	p := newPage(string(state))
	p.Link, p.Reference = l, l.ID
	return p
}

// pageOfAttempt is about an attempt that has come to nothing. The user may start again if the link can
// still be used.
func (s *Service) pageOfAttempt(name string, l relay.ConsentLink, state string, now time.Time) *page {
	p := newPage(name)
	p.Link, p.Reference = l, l.ID
	if p.AskAgain = l.State(now) != relay.ConsentLinkOpen; !p.AskAgain {
		p.Links = []link{{Text: "Start again", Address: s.path(pagesPath + state), Main: true}}
	}
	return p
}

func (s *Service) pageOfOtherBrowser(l relay.ConsentLink, state string, now time.Time) *page {
	if l.State(now) == relay.ConsentLinkUsed {
		return s.pageOfClosedLink(l, relay.ConsentLinkUsed)
	}
	return s.pageOfAttempt("other-browser", l, state, now)
}

// pageOfWaiting is for a consent that is still under way. Again is the address to load again, ""
// for the same address.
func (s *Service) pageOfWaiting(l relay.ConsentLink, again string) *page {
	p := newPage("waiting")
	p.Reference, p.Links = l.ID, []link{{Text: "Look again", Address: again, Main: true}}
	return p
}

// pageOfForeignButton is for a button that was not pressed on one of these pages.
func (s *Service) pageOfForeignButton(credential string) *page {
	p := newPage("foreign-button")
	p.Links = []link{{Text: "Open the page", Address: s.path(pagesPath + credential), Main: true}}
	return p
}

// pageOfRetry asks the user to load the page again after a time.
func pageOfRetry(name string, after time.Duration) *page {
	p := newPage(name)
	p.RetryAfter = after
	return p
}

// pageOfResult shows how a consent has ended, and what to do next.
func (s *Service) pageOfResult(
	l relay.ConsentLink, c relay.Connection, r relay.ConsentResult, state string, now time.Time,
) *page {
	name := resultName(r.Outcome)
	p := s.pageOfAttempt(name, l, state, now)
	p.Result = r
	if r.CorrelationID != "" {
		p.Reference += " · Audatex " + r.CorrelationID
	}
	switch r.Outcome {
	case relay.ConsentConnected, relay.ConsentUnchecked:
		p.Links, p.Title = nil, fmt.Sprintf(p.Title, siteTexts(c))
		p.Facts = append(connectionFacts(c), foundFacts(r.Found)...)
	case relay.ConsentAlready, relay.ConsentClient, relay.ConsentWithdrawn, relay.ConsentGone:
		p.Links = nil
	case relay.ConsentWrongSite:
		p.Expected = expectedText(c)
		p.Facts = append([]fact{{"Expected Audatex site", p.Expected}}, foundFacts(r.Found)...)
	case relay.ConsentScopeMissing:
		if a := find(&l, attemptID(state)); a != nil {
			p.Scopes = scopeTexts(a.ScopesMissing)
		}
	case relay.ConsentDenied, relay.ConsentCode, relay.ConsentToken, relay.ConsentVendor, relay.ConsentInterrupted:
	}
	p.RedirectURI, p.PKCE = s.redirectURI(), s.c.PKCE
	if l.ReturnURL != "" && s.CheckReturnURL(l.ReturnURL) == nil {
		p.Links = append(p.Links, link{Text: "Back to your application", Address: l.ReturnURL})
	}
	return p
}
