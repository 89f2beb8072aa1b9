package natsd

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// logger writes the embedded server's messages into the relay's log. Its notices are about starting
// and stopping, and are logged for debugging. Its clients' mistakes are not errors of the relay,
// and clients could make any number of lines.
type logger struct {
	log      *slog.Logger
	fatal    chan<- string // the first error that ends the server
	mistakes *mistakes
}

// byClient matches the beginning of the format of a line about a client: address and number, then
// quoted the client's own name, and its account and user. The message follows.
var byClient = regexp.MustCompile(`^(\S* - cid:\d+)(?: - "(?:[^"\\]|\\.)*")?( - "(?:[^"\\]|\\.)*")? - `)

// ownTrouble are the formats of lines about a client that the client did not cause: the server's
// own trouble, or permissions that the relay should not have given.
var ownTrouble = []string{
	"Problem registering with account %q: %s", "Error compressing data: %v", "%s",
	"invalid publish subject %q", "invalid publish deny subject %q",
	"queue qualifier is not valid for publish deny subject %q",
	"invalid subscribe allow subject %q", "invalid subscribe deny subject %q",
}

// The clients' mistakes that are counted separately, by the beginning of the server's message. All
// others, mostly about the protocol, are counted together.
var mistakesKnown = []string{
	"Publish Violation", "Subscription Violation", server.ErrMaxPayload.Error(), server.ErrTooManySubs.Error(),
	server.ErrTooManyConnections.Error(), "Client Error", "TLS ",
}

// subjectsKnown are the mistakes that are logged with their subject.
var subjectsKnown = []string{"Publish Violation", "Subscription Violation"}

// badRequest is the beginning of the server's message about a JetStream request that it cannot
// parse. The whole request follows.
const badRequest = "Malformed JetStream API Request"

func (l logger) Noticef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l logger) Debugf(string, ...any)           {}
func (l logger) Tracef(string, ...any)           {}

func (l logger) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.HasPrefix(format, badRequest) {
		l.mistakes.add(badRequest, badRequest)
		return
	}
	l.log.Warn("nats: " + text)
}

// Errorf leaves out refused logins: the server quotes the user, which may be a key in the wrong
// place. The authenticator logs them.
func (l logger) Errorf(format string, v ...any) {
	who := ""
	if m := byClient.FindStringSubmatch(format); m != nil {
		format = format[len(m[0]):]
		who = m[1] + m[2] + " - " // without the client's own name, which may be a secret in the wrong place
	}
	text := format
	if who == "" || len(v) > 0 { // otherwise the format may contain a client's own words
		text = fmt.Sprintf(format, v...)
	}
	switch {
	case strings.HasPrefix(text, server.ErrAuthentication.Error()):
	case who == "" || slices.Contains(ownTrouble, format):
		l.log.Error("nats: " + who + text)
	default:
		kind := ""
		begins := func(k string) bool { return strings.HasPrefix(text, k) }
		if i := slices.IndexFunc(mistakesKnown, begins); i >= 0 {
			kind = mistakesKnown[i]
		}
		if !slices.Contains(subjectsKnown, kind) {
			text = withoutBytes(text)
		}
		l.mistakes.add(kind, shorten(who)+shorten(text))
	}
}

func (l logger) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error("nats: " + text)
	select {
	case l.fatal <- text:
	default:
	}
}

// withoutBytes removes what the server quotes of the bytes that a client sent: there may be a
// password among them.
func withoutBytes(text string) string {
	if at := strings.IndexAny(text, ":'\""); at >= 0 {
		return text[:at]
	}
	return text
}

// shorten shortens what a client may have chosen: a subject, its own name. The beginning and the
// end identify it.
func shorten(s string) string {
	const longest, end = 256, 64
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest-end], "") + "…" + strings.ToValidUTF8(s[len(s)-end:], "")
}

// mistakesEvery is how often a kind of mistake is logged while it continues.
const mistakesEvery = time.Minute

// mistakes logs what clients do wrong: the first of a kind at once, and while it continues one line
// a minute with their number. A client can send invalid requests as fast as its network allows.
type mistakes struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[string]*mistake // those that were logged within the last minute
	ended bool
}

// mistake is a kind since its last line.
type mistake struct {
	more   int
	latest string
	next   *time.Timer
}

func newMistakes(log *slog.Logger) *mistakes {
	return &mistakes{log: log, kinds: map[string]*mistake{}}
}

func (m *mistakes) add(kind, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	if k := m.kinds[kind]; k != nil {
		k.more++
		k.latest = text
		return
	}
	m.kinds[kind] = &mistake{next: time.AfterFunc(mistakesEvery, func() { m.sum(kind) })}
	m.log.Warn("nats: " + text)
}

// sum writes a kind's line after a minute. If there was no further mistake, the kind is over: its
// next one is logged at once.
func (m *mistakes) sum(kind string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.kinds[kind]
	switch {
	case m.ended:
	case k.more == 0:
		delete(m.kinds, kind)
	default:
		m.write(k)
		k.more = 0
		k.next.Reset(mistakesEvery)
	}
}

// end writes the pending lines. Nothing is written after it.
func (m *mistakes) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.ended = true
	for _, k := range m.kinds {
		k.next.Stop()
		if k.more > 0 {
			m.write(k)
		}
	}
}

func (m *mistakes) write(k *mistake) {
	m.log.Warn(fmt.Sprintf("nats: %d more of the kind, the latest: %s", k.more, k.latest))
}
