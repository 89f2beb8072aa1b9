package audatex

import (
	"strings"
	"time"
)

// ParseTime parses a time as the vendor writes it, e.g. 2016-01-15T09:38:44.6871504Z, and returns
// it in UTC. The zone may be missing: then it is a time of loc (UTC if nil). Digits beyond
// nanoseconds are dropped. ok is false for a time that is missing, unreadable, or the vendor's
// value for none: 0001-01-01T00:00:00.
func ParseTime(s string, loc *time.Location) (t time.Time, ok bool) {
	s = strings.TrimSpace(s)
	if len(s) < len("2006-01-02T15:04:05") || len(s) > 64 {
		return time.Time{}, false
	}
	if loc == nil {
		loc = time.UTC
	}
	if s[10] == ' ' || s[10] == 't' {
		s = s[:10] + "T" + s[11:]
	}
	if s[len(s)-1] == 'z' {
		s = s[:len(s)-1] + "Z"
	}
	// A fraction of any length after the seconds is accepted by time.Parse although the layouts
	// have none.
	t, err := time.Parse("2006-01-02T15:04:05Z07:00", s)
	if err != nil {
		if t, err = time.ParseInLocation("2006-01-02T15:04:05", s, loc); err != nil {
			return time.Time{}, false
		}
	}
	t = t.UTC()
	// The years at both ends are .NET's MinValue and MaxValue, whether or not moved by a zone.
	if t.Year() <= 1 || t.Year() >= 9999 {
		return time.Time{}, false
	}
	return t, true
}
