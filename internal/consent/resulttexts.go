package consent

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// foundFacts describe who has consented.
func foundFacts(f relay.ConsentFound) []fact {
	var facts []fact
	for _, one := range []fact{
		{"Your Audatex site", f.SiteID}, {"Company code", f.CompanyCode}, {"Terminal", f.TerminalID},
		{"Audatex says you are", f.Account},
	} {
		if one.Value != "" {
			facts = append(facts, one)
		}
	}
	return facts
}

// pageOfResult shows how a consent has ended, and what to do next.
func (s *Service) pageOfResult(
	l relay.ConsentLink, c relay.Connection, r relay.ConsentResult, state string, now time.Time,
) page {
	p := page{Status: http.StatusOK, Name: "result-" + string(r.Outcome), Tone: "bad", Reference: l.ID}
	if r.CorrelationID != "" {
		p.Reference += " · Audatex " + r.CorrelationID
	}
	again := true
	switch r.Outcome {
	case relay.ConsentConnected:
		p.Tone, again = "good", false
		p.Title = "Connected: " + strings.Join(siteTexts(c), ", ")
		p.Text = []string{"Your consent has arrived, and Audatex has confirmed it."}
		if r.Found.SiteID == "" {
			p.Text = append(p.Text, "Which site you belong to was not checked, as this relay may not ask Audatex "+
				"for that.")
		}
		p.Facts = append(connectionFacts(c), foundFacts(r.Found)...)
		p.Next = []string{"There is nothing left to do. " + textCloseIt}
	case relay.ConsentUnchecked:
		p.Tone, again = "good", false
		p.Title = "Connected: " + strings.Join(siteTexts(c), ", ")
		p.Text = []string{
			"Your consent has arrived and is in use.",
			"Audatex could not be asked for a confirmation just now, so it was not checked which site you belong to.",
		}
		p.Facts = append(connectionFacts(c), foundFacts(r.Found)...)
		p.Next = []string{
			"Make sure that you logged in as a user of the site named above. If not, ask for a new link.",
			"Otherwise there is nothing left to do. " + textCloseIt,
		}
	case relay.ConsentAlready:
		p.Tone, again = "good", false
		p.Title = "Consent had been given already"
		p.Text = []string{"Another window or link was faster: the " +
			"connection " + l.Connection + " has its consent. This one was not needed."}
		p.Next = []string{"There is nothing left to do. " + textCloseIt}
	case relay.ConsentDenied:
		p.Tone, p.Title = "warn", "You did not allow the access"
		p.Text = []string{"Audatex says that the access was not allowed. " + textUnchanged}
		p.Next = []string{"If that was a mistake, start again and choose to allow " +
			"it.", "If you do not want it, close this page."}
	case relay.ConsentWrongSite:
		p.Title = "You logged in for another site"
		p.Text = []string{
			fmt.Sprintf("This connection is for the Audatex site %s, but the user you logged in as belongs to the "+
				"Audatex site %s.", expectedText(c), r.Found.SiteID),
			textUnchanged,
		}
		p.Facts = append([]fact{{"Expected Audatex site", expectedText(c)}}, foundFacts(r.Found)...)
		p.Next = []string{
			"Start again and log in as a user of the expected site. If Audatex does not ask who you are, log out " +
				"there first.",
			"If the site you logged in for is the right one, tell whoever sent you the link: its number may be " +
				"wrong there.",
			"The access that you have just allowed is not used. You can withdraw it at Audatex.",
		}
	case relay.ConsentScopeMissing:
		p.Title = "The consent does not cover what is needed"
		p.Text = []string{"Audatex did not grant everything that was asked for, or your user may not grant " +
			"it. " + textUnchanged}
		for _, a := range l.Attempts {
			if attemptID(state) == a.ID && len(a.ScopesMissing) > 0 {
				missing := make([]string, len(a.ScopesMissing))
				for i, scope := range a.ScopesMissing {
					missing[i] = scopeText(scope)
				}
				p.Lists = []list{{Title: "What is missing", Items: missing}}
			}
		}
		p.Next = []string{"Start again with a user who may read parts orders, and allow everything.", textTell}
	case relay.ConsentClient:
		p.Title, again = "Audatex does not accept this relay", false
		p.Text = []string{"Audatex refuses the relay's own registration, not you. It does not help to try again " +
			"before the operator has looked at it. " + textUnchanged}
		p.Next = []string{
			textTell,
			"The operator compares client id, client secret, scopes and redirect " +
				"address (" + s.redirectURI() + ") with what Audatex has registered.",
		}
		if s.c.PKCE {
			p.Next = append(p.Next,
				"If all of that is right, Audatex may not know PKCE: the operator tries RELAY_AUDATEX_PKCE=off.")
		}
	case relay.ConsentCode:
		p.Tone, p.Title = "warn", "Audatex no longer accepts this answer"
		p.Text = []string{"What Audatex sent you back with is good for about a minute and for one use, and that " +
			"was over. " + textUnchanged}
		p.Next = []string{"Start again; it usually works the second time."}
	case relay.ConsentToken:
		p.Title = "Audatex does not accept its own answer"
		p.Text = []string{"Audatex has given access and then refused it at the first use. " + textUnchanged}
		p.Next = []string{"Start again in a few minutes.", "If it happens again: " + textTell}
	case relay.ConsentVendor:
		p.Title = "Audatex did not answer"
		p.Text = []string{"Audatex gave no answer that can be used. " + textUnchanged}
		p.Next = []string{"Start again in a few minutes.", "If it happens again: " + textTell}
	case relay.ConsentInterrupted:
		p.Tone, p.Title = "warn", "The relay was interrupted"
		p.Text = []string{"The relay stopped at the moment in which it exchanged your consent, so it was not " +
			"received. " + textUnchanged}
		p.Next = []string{"Start again; you may have to log in once more."}
	case relay.ConsentWithdrawn, relay.ConsentGone:
		p.Tone, p.Title, again = "warn", "This link is no longer valid", false
		p.Text = []string{"It was withdrawn, or the connection it was made for was removed, while you were at " +
			"Audatex. " + textUnchanged}
		p.Next = []string{textAskAgain}
	}
	if again {
		links, next := s.againLink(l, state, now)
		p.Links, p.Next = links, append(p.Next, next...)
	}
	if l.ReturnURL != "" && s.CheckReturnURL(l.ReturnURL) == nil {
		p.Links = append(p.Links, link{Text: "Back to your application", Address: l.ReturnURL})
	}
	return p
}
