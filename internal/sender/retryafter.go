package sender

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter is the longest wait that is accepted from a receiver's Retry-After.
const MaxRetryAfter = 24 * time.Hour

// retryAfter parses the header Retry-After (RFC 9110 section 10.2.3): seconds, or a date. A date is
// compared with the response's own Date, if there is one, so that a receiver's wrong clock does no
// harm; otherwise with now.
func retryAfter(value, date string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) { // only digits: the number can only be too large
			return MaxRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(date); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter), true
}
