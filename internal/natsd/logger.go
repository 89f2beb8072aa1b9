package natsd

import (
	"fmt"
	"log/slog"
	"strings"
)

// logger writes what the embedded server has to say into the relay's log. Its notices are about starting and stopping: debug.
type logger struct {
	log   *slog.Logger
	fatal chan<- string // the first error that the server does not outlive
}

func (l logger) Noticef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l logger) Warnf(format string, v ...any)   { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l logger) Debugf(string, ...any)           {}
func (l logger) Tracef(string, ...any)           {}

// Errorf leaves out refused logins: the server quotes what stood in the user's place, which may be a key in the wrong one. They are
// told by the authenticator.
func (l logger) Errorf(format string, v ...any) {
	if said := fmt.Sprintf(format, v...); !strings.Contains(said, "authentication error") {
		l.log.Error("nats: " + said)
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
