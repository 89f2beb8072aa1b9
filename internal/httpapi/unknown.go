package httpapi

import (
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/access"
)

// The limits of what the log shows of a path that does not exist.
const (
	shownSegments = 6
	shownSegment  = 24 // bytes; longer ones may be secrets
)

// harmless is what a segment of such a path may hold to be shown.
var harmless = regexp.MustCompile(`^[0-9A-Za-z._~-]*$`)

// logUnknown writes the access line of a path that does not exist, with the path. Scanners ask for thousands: an
// address gets one line a minute, and all together as many as failed authentications do; a line has how many it stands
// for.
func (a *API) logUnknown(r *http.Request, x *exchange) {
	f := a.unknown.Failed(x.remote, time.Now())
	if !f.Log {
		return
	}
	a.c.Log.LogAttrs(r.Context(), slog.LevelInfo, "a path was asked for that does not exist",
		slog.String("method", r.Method), slog.String("path", a.shownPath(r)), slog.String("remote", x.remoteName()),
		slog.Int("more_since_last_line", f.More),
		slog.Int("more_of_others", f.Others), slog.String("request_id", x.id))
}

// shownPath returns the path of a request as the log may show it: somebody may have put a secret there.
func (a *API) shownPath(r *http.Request) string {
	segments := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	for i, s := range segments {
		if i == shownSegments {
			segments = append(segments[:i:i], "…")
			break
		}
		if _, admin := a.c.Admins.Lookup(s); admin || access.Resembles(s) ||
			len(s) > shownSegment || !harmless.MatchString(s) {
			segments[i] = "…"
		}
	}
	return "/" + strings.Join(segments, "/")
}
