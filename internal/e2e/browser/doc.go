// Package browser drives a real Chromium through what the vendor's users see: from a consent link over the vendor's
// portal to the result. The relays, three behind a round robin, and the vendor's double run as their users run them;
// without Chromium the tests are skipped. Begin reading at consent_test.go; these variables change what the tests do:
//
//	RELAY_CHROMIUM        the program; else chromium, chromium-browser or google-chrome from PATH
//	RELAY_BROWSER_WANTED  1: there being no Chromium, or no axe, is a failure; 0: skipped, as if there were no Chromium
//	RELAY_AXE             axe.min.js of axe-core, which judges every page; without it nobody does
//	RELAY_SCREENSHOTS     a directory that gets a picture of every page
package browser
