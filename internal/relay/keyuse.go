package relay

import "time"

// KeyUses is what is known of the keys of a client beside its document: it changes with every use,
// where the document changes with the client.
type KeyUses struct {
	Generation string            `json:"generation"` // of the client
	Keys       map[string]KeyUse `json:"keys"`       // by the keys' ids
}

// KeyUse is what is known of one key.
type KeyUse struct {
	// Hour is when the key was last used, in hours since 1970; 0 means never.
	Hour int64 `json:"hour,omitempty"`
	// Warned is for which of KeyWarnings an event was published last, 0 for none.
	Warned int `json:"warned,omitempty"`
}

// KeyWarnings are how many days before its expiry a key is warned of.
var KeyWarnings = []int{1, 7, 30}

// Merge returns both together.
func (u KeyUse) Merge(other KeyUse) KeyUse {
	u.Hour = max(u.Hour, other.Hour)
	if other.Warned > 0 && (u.Warned == 0 || other.Warned < u.Warned) {
		u.Warned = other.Warned
	}
	return u
}

// ClocksDiffer is by how much the clocks of replicas may differ.
const ClocksDiffer = time.Minute

// At returns what of it can be true now. A clock that was ahead may have noted a use in a later hour,
// or a warning whose time has not come: that one is still to be given.
func (u KeyUse) At(now time.Time, key Key) KeyUse {
	if u.Hour > HourOf(now)+1 {
		u.Hour = 0
	}
	latest := now.Add(ClocksDiffer)
	if days, _ := key.Warning(latest); !key.Expired(latest) && (days == 0 || u.Warned < days) {
		u.Warned = 0
	}
	return u
}

// Last returns when the key was last used, to the hour; false if it never was.
func (u KeyUse) Last() (at time.Time, used bool) {
	if u.Hour == 0 {
		return time.Time{}, false
	}
	return time.Unix(u.Hour*3600, 0).UTC(), true
}

// HourOf returns a time in hours since 1970.
func HourOf(at time.Time) int64 { return at.Unix() / 3600 }

// Warning returns of which warning before its expiry it is time for a key, and since when; 0 if it is
// time for none. No warning comes before the notice of the key's end.
func (k Key) Warning(now time.Time) (days int, since time.Time) {
	if k.ExpiresAt == nil || k.Expired(now) {
		return 0, time.Time{}
	}
	notice := k.ExpiresAt.Add(-k.noticeOfEnd())
	for _, days := range KeyWarnings {
		since := k.ExpiresAt.AddDate(0, 0, -days)
		if since.Before(notice) {
			since = notice
		}
		if !now.Before(since) {
			return days, since
		}
	}
	return 0, time.Time{}
}

// noticeOfEnd is NoticeOfEnd of a key that expires.
func (k Key) noticeOfEnd() time.Duration { return NoticeOfEnd(k.ExpiresAt.Sub(k.CreatedAt)) }

// EndsIn returns the time until a key expires, and whether that is soon. For as long after its end, and
// at most for a day, it still is: whoever uses the key is refused now. The time is negative then.
func (k Key) EndsIn(now time.Time) (left time.Duration, soon bool) {
	if k.ExpiresAt == nil {
		return 0, false
	}
	left = k.ExpiresAt.Sub(now)
	return left, left < k.noticeOfEnd() && left > -min(k.noticeOfEnd(), 24*time.Hour)
}
