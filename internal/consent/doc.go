// Package consent lets a user of the vendor give consent for a connection in a browser.
//
// An operator makes a link (Make) and sends it to a site. The link's page says who asks for what; its button, and nothing
// else, begins OAuth's authorization code flow. The vendor sends the browser back to /oauth/callback with a code, which is
// exchanged for the connection's new tokens.
//
// Everything that is known of a link and of the consents begun by it lies in one document of relay_consents, so that any
// replica may serve any request, and one compare-and-set decides who goes on:
//
//		started ──▶ exchanging ──▶ pending ──▶ done
//		   1            2             3
//
//	 1. The code came back. The state is used up before the code is sent: of two requests with the same state one exchanges,
//	    and both show the same result. One exchange is under way for a link at a time.
//	 2. The tokens are stored here, encrypted, before anything is asked with them: the refresh token exists nowhere else.
//	 3. The vendor is asked who consented. Unless that is somebody else than expected, the tokens replace those of the
//	    connection, the connection notes the consent, which wakes whoever polls it, and the attempt ends.
//
// If the process ends on the way, whoever loads the result next, or a sweep, goes on where it stopped: an exchange that is
// past its deadline ends as interrupted, as its code may be spent; from pending on every step may be taken twice.
// The token record names the consent that it came of, so that tokens which were refreshed since are never replaced by the ones before.
package consent
