package relay

import (
	"strings"
	"time"
)

// Level says what a connection's consent covers at the vendor, and which of its three sets of event calls is used.
type Level string

// The vendor's three levels.
const (
	LevelSite    Level = "site"
	LevelCompany Level = "company"
	LevelUser    Level = "user"
)

// Connection is one consent given by a vendor user, as configured. Its tokens live in a document of their own (Token), so
// that a refresh never collides with an operator's change.
type Connection struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Site is the site every notification belongs to whose vendor site id is not in Sites; empty for a company grant whose
	// sites are all listed.
	Site string `json:"site,omitempty"`
	// Sites maps the vendor's SiteId to our site.
	Sites               map[string]string `json:"sites,omitempty"`
	PollIntervalSeconds float64           `json:"pollIntervalSeconds,omitempty"` // 0: the program's RELAY_POLL_INTERVAL
	Paused              bool              `json:"paused,omitempty"`
	Generation          string            `json:"generation"` // random; a connection made anew under an old id is another one
	// Consent is the one that the tokens came of; nil if an operator has put them.
	Consent   *Consent  `json:"consent,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// SiteOf answers our site for a vendor's site id, "" when the id is not mapped and the connection has no site of its own.
func (c Connection) SiteOf(vendorSite string) string {
	if s, ok := c.Mapped(vendorSite); ok {
		return s
	}
	return c.Site
}

// Mapped answers what Sites says of a vendor's site id; upper and lower case are one. A consent is checked by it, too.
func (c Connection) Mapped(vendorSite string) (site string, ok bool) {
	if site, ok = c.Sites[vendorSite]; ok {
		return site, true
	}
	for id, site := range c.Sites {
		if strings.EqualFold(id, vendorSite) {
			return site, true
		}
	}
	return "", false
}

// Covers reports whether the connection may carry a site.
func (c Connection) Covers(site string) bool {
	if c.Site == site {
		return true
	}
	for _, s := range c.Sites {
		if s == site {
			return true
		}
	}
	return false
}

// SiteNames answers every site the connection may carry, without repeats.
func (c Connection) SiteNames() []string {
	seen := map[string]bool{}
	var names []string
	add := func(s string) {
		if s != "" && !seen[s] {
			seen[s] = true
			names = append(names, s)
		}
	}
	add(c.Site)
	for _, s := range c.Sites {
		add(s)
	}
	return names
}

// PollIntent is written before the vendor's destructive poll is sent. An intent without an outcome whose poll id is not in
// the inbox either is a suspected gap: the answer may have carried notifications that nobody stored.
type PollIntent struct {
	PollID string `json:"pollId"`
	// Owner is the process that polls, by a random id of its own. Another process waits for the deadline before it takes the poll
	// for ended; documents of before there were several have none.
	Owner    string    `json:"owner,omitempty"`
	At       time.Time `json:"at"`
	Deadline time.Time `json:"deadline"` // the call has ended for certain by then
}

// PollOutcome is what became of the last poll.
type PollOutcome struct {
	PollID        string    `json:"pollId"`
	At            time.Time `json:"at"`
	Result        string    `json:"result"` // audatex.Outcome as text
	Notifications int       `json:"notifications"`
	Full          bool      `json:"full,omitempty"` // more wait at the vendor's
	InboxSeq      uint64    `json:"inboxSeq,omitempty"`
	Error         string    `json:"error,omitempty"`
	CorrelationID string    `json:"correlationId,omitempty"`
}

// UntoldGap is a suspected gap: since when, and why in words that begin its event.
type UntoldGap struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// Poll is the document of relay_polls: where a connection stands with the vendor's queue.
type Poll struct {
	Epoch      uint64       `json:"epoch"`
	Generation string       `json:"generation"`
	Intent     *PollIntent  `json:"intent,omitempty"`
	Outcome    *PollOutcome `json:"outcome,omitempty"`
	// InboxSeq is the connection's last page in the inbox, as far as its owner knew when it wrote the document; 0 if it knew of none.
	InboxSeq       uint64 `json:"inboxSeq,omitempty"`
	SubscriptionID string `json:"subscriptionId,omitempty"`
	// Topic is what the subscription was asked for.
	Topic string `json:"topic,omitempty"`
	// SubscribingSince is when the vendor was first asked for a subscription without an answer that says what came of it.
	SubscribingSince *time.Time `json:"subscribingSince,omitempty"`
	// SubscriptionAdopted says that the vendor already had the subscription and nobody here has a record of making it; AdoptionTold that
	// the event about it is in the log.
	SubscriptionAdopted bool `json:"subscriptionAdopted,omitempty"`
	AdoptionTold        bool `json:"adoptionTold,omitempty"`
	// SubscriptionLost says that the vendor no longer knew the subscription: until there is another nothing queues up.
	SubscriptionLost bool       `json:"subscriptionLost,omitempty"`
	GapSuspectedAt   *time.Time `json:"gapSuspectedAt,omitempty"`
	// Gaps counts the moments from which on the connection's open orders must be read again, see Reconciliation; GapCause is the
	// last one's cause and GapSince the time from which changes may have been missed.
	Gaps     uint64         `json:"gaps,omitempty"`
	GapCause ReconcileCause `json:"gapCause,omitempty"`
	GapSince *time.Time     `json:"gapSince,omitempty"`
	// GapsUntold are suspected gaps whose operational event could not be stored yet.
	GapsUntold []UntoldGap `json:"gapsUntold,omitempty"`
	// ForeignSince is since when polls bring something else in the queue's place; nil: they do not.
	ForeignSince *time.Time `json:"foreignSince,omitempty"`
	Failures     int        `json:"failures,omitempty"` // polls failed in a row
	FailingSince *time.Time `json:"failingSince,omitempty"`
	// SoonerUntil is until when polls come sooner than the interval says, as something came or a user consented.
	SoonerUntil *time.Time `json:"soonerUntil,omitempty"`
	// ConsentToldFor is the end of consent that was told as an operational event.
	ConsentToldFor *time.Time `json:"consentToldFor,omitempty"`
}
