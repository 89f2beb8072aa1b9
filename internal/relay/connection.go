package relay

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Level is what a connection's consent covers at the vendor. It selects one of the vendor's three
// sets of event calls.
type Level string

// The vendor's three levels.
const (
	LevelSite    Level = "site"
	LevelCompany Level = "company"
	LevelUser    Level = "user"
)

// Connection is one consent given by a vendor user, as configured. Its tokens are stored in a
// document of their own (Token), so that a refresh never conflicts with an operator's change.
type Connection struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Site is the site of every notification whose vendor site id is not in Sites. It is empty for
	// a company grant whose sites are all listed.
	Site string `json:"site,omitempty"`
	// Sites maps the vendor's SiteId to our site.
	Sites               map[string]string `json:"sites,omitempty"`
	PollIntervalSeconds float64           `json:"pollIntervalSeconds,omitempty"` // 0: the program's RELAY_POLL_INTERVAL
	Paused              bool              `json:"paused,omitempty"`
	Generation          string            `json:"generation"` // random; another one if the id is used again
	// Consent is the consent that the tokens came from; nil if an operator entered the tokens.
	Consent   *Consent  `json:"consent,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// SiteOf returns our site for a vendor's site id. It is "" if the id is not mapped and the
// connection has no site of its own. The vendor's older form of a notification names no site: what
// comes without one by a site's own consent belongs to the only site of the table, if it has one.
// What names a site that is not in the table does not: it may be of another site's consent.
func (c Connection) SiteOf(vendorSite string) string {
	if s, ok := c.Mapped(vendorSite); ok {
		return s
	}
	if c.Site == "" && vendorSite == "" && c.Level == LevelSite {
		if names := c.SiteNames(); len(names) == 1 {
			return names[0]
		}
	}
	return c.Site
}

// Mapped returns the site that Sites has for a vendor's site id, ignoring case. Consents are
// checked with it, too.
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

// Covers reports whether the connection may carry events of a site.
func (c Connection) Covers(site string) bool { return slices.Contains(c.SiteNames(), site) }

// SiteNames returns every site that the connection may carry, each once.
func (c Connection) SiteNames() []string {
	names := slices.AppendSeq([]string{c.Site}, maps.Values(c.Sites))
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// EventSite returns the site that an operational event about the connection belongs to.
func (c Connection) EventSite() string {
	if names := c.SiteNames(); len(names) == 1 {
		return names[0]
	}
	return NoSite
}

// PollIntent is written before the vendor's destructive poll is sent. If an intent has no outcome,
// and its poll id is not in the inbox either, there may be a gap: the response may have carried
// notifications that were never stored.
type PollIntent struct {
	PollID string `json:"pollId"`
	// Owner identifies the polling process by a random id. Another process waits for the deadline
	// before it treats the poll as ended.
	Owner    string    `json:"owner,omitempty"`
	At       time.Time `json:"at"`
	Deadline time.Time `json:"deadline"` // the call has certainly ended by then
}

// PollOutcome is the result of the last poll.
type PollOutcome struct {
	PollID        string    `json:"pollId"`
	At            time.Time `json:"at"`
	Result        string    `json:"result"` // audatex.Outcome as text
	Notifications int       `json:"notifications"`
	Full          bool      `json:"full,omitempty"` // the vendor has more notifications waiting
	InboxSeq      uint64    `json:"inboxSeq,omitempty"`
	Error         string    `json:"error,omitempty"`
	CorrelationID string    `json:"correlationId,omitempty"`
}

// UnpublishedGap is a suspected gap: since when, and why in words that begin its event.
type UnpublishedGap struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// Poll is the document in relay_polls: how far a connection has read the vendor's queue.
type Poll struct {
	Epoch      uint64       `json:"epoch"`
	Generation string       `json:"generation"`
	Intent     *PollIntent  `json:"intent,omitempty"`
	Outcome    *PollOutcome `json:"outcome,omitempty"`
	// PolledAt is when a poll last succeeded; zero if none has yet.
	PolledAt time.Time `json:"polledAt,omitzero"`
	// InboxSeq is the connection's last page in the inbox that its owner knew of when it wrote the
	// document; 0 if it knew of none.
	InboxSeq       uint64 `json:"inboxSeq,omitempty"`
	SubscriptionID string `json:"subscriptionId,omitempty"`
	// Topic is the topic that the subscription was requested for.
	Topic string `json:"topic,omitempty"`
	// SubscribingSince is when the vendor was first asked for a subscription whose outcome is not
	// known yet.
	SubscribingSince *time.Time `json:"subscribingSince,omitempty"`
	// SubscriptionAdopted is set if the vendor already had the subscription and this relay has no
	// record of making it. AdoptionPublished is set once the event about it is in the log.
	SubscriptionAdopted bool `json:"subscriptionAdopted,omitempty"`
	AdoptionPublished   bool `json:"adoptionTold,omitempty"`
	// SubscriptionLost is set if the vendor no longer knows the subscription. Until there is a new
	// one nothing is queued.
	SubscriptionLost bool       `json:"subscriptionLost,omitempty"`
	GapSuspectedAt   *time.Time `json:"gapSuspectedAt,omitempty"`
	// Gaps counts the gaps after which the connection's open orders must be read again, see
	// Reconciliation. GapCause is the cause of the last one, and GapSince the time since which
	// changes may have been missed.
	Gaps     uint64         `json:"gaps,omitempty"`
	GapCause ReconcileCause `json:"gapCause,omitempty"`
	GapSince *time.Time     `json:"gapSince,omitempty"`
	// UnpublishedGaps are suspected gaps whose operational event could not be stored yet.
	UnpublishedGaps []UnpublishedGap `json:"gapsUntold,omitempty"`
	// ForeignSince is since when polls have returned something other than the queue's contents; nil
	// if they do not.
	ForeignSince *time.Time `json:"foreignSince,omitempty"`
	Failures     int        `json:"failures,omitempty"` // failed polls in a row
	FailingSince *time.Time `json:"failingSince,omitempty"`
	// SoonerUntil is until when polls come more often than the interval, because something arrived
	// or a user consented.
	SoonerUntil *time.Time `json:"soonerUntil,omitempty"`
	// ConsentPublishedFor is the end of consent for which an operational event was published.
	ConsentPublishedFor *time.Time `json:"consentToldFor,omitempty"`
}

// maxUnpublishedGaps is how many unpublished gaps are kept. Polling stops while the store takes no
// writes, so there are few.
const maxUnpublishedGaps = 100

// Suspect records a suspected gap since a time, whose operational event is still to be published.
func (p *Poll) Suspect(since time.Time, why string) {
	p.GapSuspectedAt = &since
	p.PublishLater(UnpublishedGap{Since: since, Why: why})
	p.ReadAgain(CauseGap, since)
}

// PublishLater notes a suspected gap whose operational event is still to be published.
func (p *Poll) PublishLater(gap UnpublishedGap) {
	if len(p.UnpublishedGaps) < maxUnpublishedGaps {
		p.UnpublishedGaps = append(slices.Clip(p.UnpublishedGaps), gap)
	}
}

// ReadAgain has the connection's open orders read again: changes may have been missed since a time.
func (p *Poll) ReadAgain(cause ReconcileCause, since time.Time) {
	// before there is a new one, what was read could be missed again
	if cause == CauseGap && p.SubscriptionLost {
		return
	}
	p.Gaps++
	p.GapCause, p.GapSince = cause, &since
}

// TakeGaps takes the gaps of a document that has more of them: somebody has found one since this
// one was read.
func (p *Poll) TakeGaps(there Poll) {
	if there.Gaps > p.Gaps {
		p.Gaps, p.GapCause, p.GapSince = there.Gaps, there.GapCause, there.GapSince
		p.GapSuspectedAt, p.UnpublishedGaps = there.GapSuspectedAt, there.UnpublishedGaps
	}
}

// OwnerEpoch is the epoch of the owner who wrote the document.
func (p Poll) OwnerEpoch() uint64 { return p.Epoch }
