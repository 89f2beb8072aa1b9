package natsd

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// logger writes what the embedded server has to say into the relay's log. Its notices are about starting and stopping: debug. What
// its clients do wrong is no error of the relay, and as many lines as they please.
type logger struct {
	log      *slog.Logger
	fatal    chan<- string // the first error that the server does not outlive
	mistakes *mistakes
}

// byClient matches how the server begins the format of a line about a client: address and number, then in quotes what the client calls
// itself, and its account and user. What the line says of it follows.
var byClient = regexp.MustCompile(`^(\S* - cid:\d+)(?: - "(?:[^"\\]|\\.)*")?( - "(?:[^"\\]|\\.)*")? - `)

// ownTrouble are the formats of the lines about a client that are not of its making: the server's trouble, or permissions that the relay
// should not have given.
var ownTrouble = []string{
	"Problem registering with account %q: %s", "Error compressing data: %v", "%s",
	"invalid publish subject %q", "invalid publish deny subject %q", "queue qualifier is not valid for publish deny subject %q",
	"invalid subscribe allow subject %q", "invalid subscribe deny subject %q",
}

// The clients' mistakes that are counted each for itself, as the server begins to tell them. All others, mostly of the protocol, are
// counted as one.
var mistakesKnown = []string{
	"Publish Violation", "Subscription Violation", server.ErrMaxPayload.Error(), server.ErrTooManySubs.Error(), server.ErrTooManyConnections.Error(), "Client Error", "TLS ",
}

// subjectsKnown are the mistakes that are told with the subject they are about.
var subjectsKnown = []string{"Publish Violation", "Subscription Violation"}

// badRequest begins what the server says of a request to JetStream that it cannot read. The request follows, whole.
const badRequest = "Malformed JetStream API Request"

func (l logger) Noticef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l logger) Debugf(string, ...any)           {}
func (l logger) Tracef(string, ...any)           {}

func (l logger) Warnf(format string, v ...any) {
	said := fmt.Sprintf(format, v...)
	if strings.HasPrefix(format, badRequest) {
		l.mistakes.tell(badRequest, badRequest)
		return
	}
	l.log.Warn("nats: " + said)
}

// Errorf leaves out refused logins: the server quotes what stood in the user's place, which may be a key in the wrong one. They are
// told by the authenticator.
func (l logger) Errorf(format string, v ...any) {
	who := ""
	if m := byClient.FindStringSubmatch(format); m != nil {
		format = format[len(m[0]):]
		who = m[1] + m[2] + " - " // without what the client calls itself, which may be a secret in the wrong place
	}
	said := format
	if who == "" || len(v) > 0 { // else there may be a client's own words in the format
		said = fmt.Sprintf(format, v...)
	}
	switch {
	case strings.HasPrefix(said, server.ErrAuthentication.Error()):
	case who == "" || slices.Contains(ownTrouble, format):
		l.log.Error("nats: " + who + said)
	default:
		kind := ""
		if i := slices.IndexFunc(mistakesKnown, func(k string) bool { return strings.HasPrefix(said, k) }); i >= 0 {
			kind = mistakesKnown[i]
		}
		if !slices.Contains(subjectsKnown, kind) {
			said = withoutBytes(said)
		}
		l.mistakes.tell(kind, shorten(who)+shorten(said))
	}
}

func (l logger) Fatalf(format string, v ...any) {
	said := fmt.Sprintf(format, v...)
	l.log.Error("nats: " + said)
	select {
	case l.fatal <- said:
	default:
	}
}

// withoutBytes leaves out what the server quotes of the bytes that a client sent: a password may be among them.
func withoutBytes(said string) string {
	if at := strings.IndexAny(said, ":'\""); at >= 0 {
		return said[:at]
	}
	return said
}

// shorten bounds what a client may have chosen: a subject, its own name. The start and the end say what it is.
func shorten(s string) string {
	const longest, end = 256, 64
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest-end], "") + "…" + strings.ToValidUTF8(s[len(s)-end:], "")
}
