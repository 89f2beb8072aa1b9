// Package consent lets a user of the vendor give consent for a connection in a browser. Only the button of a link's
// page begins a consent, only the expected site's tokens are used unless the link is forced, and no refresh token is
// lost once it was received. Begin with the phases below and handler.go; steps.go has every change of a link's
// document.
package consent

// The phases of a consent.
//
// An operator makes a link (Make) and sends it to a site. The link's page shows who asks for what;
// its button, and nothing else, begins OAuth's authorization code flow. The vendor sends the
// browser back to /oauth/callback with a code, which is exchanged for the connection's new tokens.
//
// Everything about a link and the consents begun with it is stored in one document of
// relay_consents, so that any replica can serve any request, and one compare-and-set decides which
// consent may proceed:
//
//			started ──▶ exchanging ──▶ pending ──▶ done
//			   1            2             3
//
//	 1. The code has arrived. The state is used up before the code is sent: of two requests with the
//	    same state one makes the exchange, and both show the same result. A link has at most one
//	    exchange under way.
//	 2. The tokens are stored here, encrypted, before they are used: the refresh token exists nowhere
//	    else.
//	 3. The vendor is asked who consented. Unless it is an unexpected site, the tokens replace those
//	    of the connection, the consent is recorded in the connection, which wakes its poller, and the
//	    attempt ends.
//
// If the process dies on the way, the next request for the result, or a sweep, continues where it
// stopped. An exchange past its deadline ends as interrupted, because its code may be spent; from
// pending on, every step may be repeated. The token record contains the id of its consent, so that
// tokens that were refreshed since are never replaced by older ones.
