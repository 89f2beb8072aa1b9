package consent

import (
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// The consent of a second user of the same link, and one that the user does not give.
func TestADeniedConsentCanBeBegunAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("4711")
	made := w.link(NewLink{Connection: w.connection("con-a", "4711")})
	b := w.browser()
	denied := b.consent(made.URL, "4711", deny)
	if denied.title() != "You did not allow the access" {
		t.Fatalf("%d %s", denied.status, denied.body)
	}
	again := mainLink(denied)
	if page := b.get(again); page.status != 200 || page.title() != "Allow access to your parts orders at Audatex" {
		t.Errorf("start again leads to %d %s", page.status, page.title())
	}
	if result := b.consent(again, "4711"); w.stored(made.ID).State(result.at) != relay.ConsentLinkUsed {
		t.Errorf("begun again: %s", result.body)
	}
}
