package consent

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// All texts of the pages are in this file and in resulttexts.go.

const (
	textAskAgain  = "Ask whoever sent you the link for a new one."
	textTell      = "Tell whoever sent you the link, and name the reference below."
	textUnchanged = "Nothing has been changed."
	textAgain     = "Start again"
	textButton    = "Continue to Audatex"
	textCloseIt   = "You can close this page."
)

// maxShownSites bounds the sites that a page lists.
const maxShownSites = 10

// whenText formats a time for readers in any zone.
func whenText(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04") + " UTC" }

// scopeText describes a scope in plain words.
func scopeText(scope string) string {
	switch strings.ToLower(scope) {
	case "bms.basic":
		return "Be told when something happens to your orders, and look up assessments by their number (" + scope + ")"
	case "bms.partsorders", "bms.partorders":
		return "Read your parts orders: the parts, prices, status and delivery dates (" + scope + ")"
	case "referencedata.company":
		return "See which site and company you belong to, so that the right site is connected (" + scope + ")"
	}
	return "What Audatex calls " + scope
}

// siteTexts returns the connection's sites as people know them.
func siteTexts(c relay.Connection) []string {
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(c.Sites)) {
		texts = append(texts, fmt.Sprintf("%s (Audatex site %s)", c.Sites[id], id))
	}
	if c.Site != "" && !slices.Contains(slices.Collect(maps.Values(c.Sites)), c.Site) {
		texts = append([]string{c.Site}, texts...)
	}
	if more := len(texts) - maxShownSites; more > 1 {
		texts = append(texts[:maxShownSites], fmt.Sprintf("and %d more", more))
	}
	return texts
}

// expectedText lists the vendor's sites that a connection is for.
func expectedText(c relay.Connection) string {
	ids := slices.Sorted(maps.Keys(c.Sites))
	if more := len(ids) - maxShownSites; more > 1 {
		ids = append(ids[:maxShownSites], fmt.Sprintf("%d more", more))
	}
	return strings.Join(ids, ", ")
}

func (s *Service) host() string {
	if s.public == nil {
		return "this address"
	}
	return s.public.Host
}

// connectionFacts describe the connection that a page is about.
func connectionFacts(c relay.Connection) []fact {
	covers := map[relay.Level]string{
		relay.LevelSite: "one site", relay.LevelCompany: "every site of the company", relay.LevelUser: "one user",
	}[c.Level]
	return []fact{
		{"Site", strings.Join(siteTexts(c), ", ")}, {"Connection", c.ID}, {"Consent covers", covers},
	}
}

// pageOfConsent asks for consent. Paused is the time until which the vendor has asked for no
// requests.
func (s *Service) pageOfConsent(l relay.ConsentLink, c relay.Connection, credential string, paused time.Time) page {
	scopes := make([]string, len(s.c.Scopes))
	for i, scope := range s.c.Scopes {
		scopes[i] = scopeText(scope)
	}
	p := page{
		Status: http.StatusOK, Name: "consent", Title: "Allow access to your parts orders at Audatex", Tone: "plain",
		Text: []string{
			"The Audatex relay at " + s.host() + " asks for your consent. With it your business system is told " +
				"what becomes of the parts orders that you place in Audatex.",
		},
		Facts: append([]fact{
			{"Who asks", "Audatex relay at " + s.host()}, {"Known to Audatex as", s.c.ClientID},
		}, connectionFacts(c)...),
		Lists: []list{
			{Title: "What it will be allowed to do", Items: scopes},
			{Title: "What happens next", Steps: true, Items: []string{
				"Audatex's own page opens and asks for your Company Code, User Name and Password. They are typed " +
					"in there; the relay never sees them.",
				"Log in as a user of the site named above, and allow the access.",
				"Audatex then brings you back here, and you are told whether it worked. You have 30 minutes.",
			}},
		},
		Button:    &button{Text: textButton, Action: s.path(pagesPath + credential)},
		NextTitle: "Good to know",
		Next: []string{"If you did not expect this, close the page: nothing happens without the " +
			"button.", "The link can be used until " + whenText(l.ExpiresAt) + "."},
		Reference: l.ID,
	}
	if !paused.IsZero() {
		until := whenText(paused.Add(time.Minute - 1).Truncate(time.Minute))
		p.Button.Off, p.Button.Text = true, "Please wait until "+until
		p.Notice = "Audatex has asked this relay to wait until " + until +
			". Open the link again after that time; the button works then."
	}
	return p
}

// pageOfClosedLink explains why a link can no longer be used.
func (s *Service) pageOfClosedLink(l relay.ConsentLink, state relay.ConsentLinkState) page {
	p := page{Status: http.StatusGone, Tone: "warn", Next: []string{textAskAgain}, Reference: l.ID}
	switch state {
	case relay.ConsentLinkUsed:
		p.Name, p.Tone, p.Title = "used", "good", "This link has been used: consent was given"
		p.Text = []string{"Consent for the connection " + l.Connection + " was given by this link. It works once."}
		if l.UsedAt != nil {
			p.Text = []string{
				"Consent for the connection " + l.Connection + " was given by this link on " + whenText(*l.UsedAt) + ".",
				"It works once.",
			}
		}
		p.Next = []string{"There is nothing left to do. " + textCloseIt, "If consent has to be given again, ask " +
			"whoever sent you the link for a new one."}
	case relay.ConsentLinkExpired:
		p.Name, p.Title = "expired", "This link has expired"
		p.Text = []string{"It could be used until " + whenText(l.ExpiresAt) + "."}
	case relay.ConsentLinkWithdrawn, relay.ConsentLinkOpen:
		p.Name, p.Title = "withdrawn", "This link is no longer valid"
		p.Text = []string{"It was withdrawn, or the connection it was made for was removed."}
	}
	return p
}

func (s *Service) pageOfUnknown() page {
	return page{
		Status: http.StatusNotFound, Name: "unknown", Title: "This link is not known", Tone: "warn",
		Text: []string{"The address is not complete, or the link was made too long ago."},
		Next: []string{"Open the link from the message again, or copy the whole of it: some programs break long " +
			"addresses.", textAskAgain},
	}
}

func (s *Service) pageOfNeverSeen() page {
	return page{
		Status: http.StatusNotFound, Name: "never-seen", Title: "Nobody here has asked Audatex for this", Tone: "warn",
		Text: []string{"Audatex sent you to this relay with an answer to a question that the relay has not asked, " +
			"or has forgotten. " + textUnchanged},
		Next: []string{"Open the link from the message that you got, and begin there.", textAskAgain},
	}
}

// againLink lets the user start again if the link can still be used.
func (s *Service) againLink(l relay.ConsentLink, state string, now time.Time) (links []link, next []string) {
	if l.State(now) != relay.ConsentLinkOpen {
		return nil, []string{textAskAgain}
	}
	return []link{{Text: textAgain, Address: s.path(pagesPath + state), Main: true}}, nil
}

func (s *Service) pageOfOtherBrowser(l relay.ConsentLink, state string, now time.Time) page {
	if l.State(now) == relay.ConsentLinkUsed {
		return s.pageOfClosedLink(l, relay.ConsentLinkUsed)
	}
	p := page{
		Status: http.StatusForbidden, Name: "other-browser", Title: "This was begun in another browser", Tone: "warn",
		Text: []string{
			"The way back from Audatex must end in the browser in which it began, within 30 minutes and with " +
				"cookies allowed. " +
				"This one does not know of it. " + textUnchanged,
		},
		Next: []string{"Go on in the browser in which you pressed the button, or start again in this " +
			"one.", "If it happens again, allow cookies for " + s.host() + "."},
		Reference: l.ID,
	}
	links, next := s.againLink(l, state, now)
	p.Links, p.Next = links, append(p.Next, next...)
	return p
}

func (s *Service) pageOfLate(l relay.ConsentLink, state string, now time.Time) page {
	p := page{
		Status: http.StatusGone, Name: "late", Title: "That took too long", Tone: "warn",
		Text: []string{"More than 30 minutes have passed since you pressed the button, or you have pressed it " +
			"several times since. " + textUnchanged},
		Reference: l.ID,
	}
	p.Links, p.Next = s.againLink(l, state, now)
	return p
}

func (s *Service) pageOfNoCode(l relay.ConsentLink, state string, now time.Time) page {
	p := page{
		Status: http.StatusBadRequest, Name: "no-code", Title: "The answer from Audatex is not complete", Tone: "bad",
		Text:      []string{"Audatex sent you back without saying whether you allowed the access. " + textUnchanged},
		Reference: l.ID,
	}
	p.Links, p.Next = s.againLink(l, state, now)
	return p
}

// pageOfWaiting is for a consent that is still under way. Again is the address to load again, ""
// for the same address.
func (s *Service) pageOfWaiting(l relay.ConsentLink, again string) page {
	return page{
		Status: http.StatusOK, Name: "waiting", Title: "This is taking longer than usual", Tone: "plain",
		Text: []string{
			"Audatex has not answered yet. The relay goes on by itself, and this page will say how it has ended.",
		},
		Next:      []string{"Wait a moment, then look again."},
		Links:     []link{{Text: "Look again", Address: again, Main: true}},
		Reference: l.ID,
	}
}

// pageOfForeignButton is for a button that was not pressed on one of these pages.
func (s *Service) pageOfForeignButton(credential string) page {
	return page{
		Status: http.StatusForbidden, Name: "foreign-button", Title: "Please press the button on the relay's own " +
			"page", Tone: "warn",
		Text:  []string{"The request did not come from this relay's page, so nothing was begun."},
		Links: []link{{Text: "Open the page", Address: s.path(pagesPath + credential), Main: true}},
	}
}

func (s *Service) pageOfNonsense() page {
	return page{
		Status: http.StatusBadRequest, Name: "nonsense", Title: "This cannot be understood", Tone: "warn",
		Text: []string{"The request is not one that this page takes. " + textUnchanged},
		Next: []string{"Open the link from the message that you got."},
	}
}

func (s *Service) pageOfHaste(wait time.Duration) page {
	long := "a minute"
	if wait <= 10*time.Second {
		long = "a few seconds"
	}
	return page{
		Status: http.StatusTooManyRequests, Name: "haste", Title: "Too many requests", Tone: "warn", RetryAfter: wait,
		Text: []string{"Too many requests have come from your network. " + textUnchanged},
		Next: []string{"Wait " + long + ", then load the page again."},
	}
}

func (s *Service) pageOfTrouble() page {
	return page{
		Status: http.StatusServiceUnavailable, Name: "trouble", Title: "The relay cannot do this right " +
			"now", Tone: "bad", RetryAfter: 5 * time.Second,
		Text: []string{"Its store does not answer. Nothing is lost: what you have done so far is kept."},
		Next: []string{"Load this page again in a few seconds.", "If that does not help within a minute, open the " +
			"link from the message again."},
	}
}

func (s *Service) pageOfStarting() page {
	return page{
		Status: http.StatusServiceUnavailable, Name: "starting", Title: "The relay is starting", Tone: "plain",
		RetryAfter: 5 * time.Second,
		Text:       []string{"It takes a few seconds. Nothing that you have done so far is lost."},
		Next:       []string{"Load this page again in a moment."},
	}
}
