package audatex

import (
	"encoding/json"
	"errors"
	"regexp"
)

// Contents is what a page holds, read once.
type Contents struct {
	// List is what ParsePage returns.
	List []Notification
	// Whole: the last of List is a complete element, as are all others.
	Whole bool
	// Foreign: there are bytes, and no part of them is a notification: something else was sent in the queue's place.
	Foreign bool
	// XML: the page is XML, although JSON was asked for.
	XML bool

	reason string // why a foreign page is none
	cut    bool   // the page has no end
	piece  bool   // the last of List is the beginning of an element that was cut off
}

// ReadContents reads a page. One in an encoding that cannot be undone is foreign.
func ReadContents(p Page) Contents {
	if p.Encoding != "" {
		list := EncodedPage(p.Body, p.Encoding)
		return Contents{List: list, Foreign: true, reason: list[0].Err.Error()}
	}
	list, isXML, err := ParsePage(p.Body)
	c := Contents{List: list, Whole: err == nil, Foreign: p.Carried(), XML: isXML}
	c.cut = errors.Is(err, errPageCut)
	if start := trimStart(p.Body); p.Truncated && err != nil && len(start) > 0 {
		c.piece = start[0] == '[' || isXML
	} else if c.cut && len(list) > 0 {
		c.piece = beginsNotification(list[len(list)-1].Raw)
	}
	for i := range list {
		if !c.ForeignAt(i) {
			c.Foreign = false
			break
		}
	}
	if c.Foreign && len(list) == 0 { // nothing but the beginning of a page
		c.List = []Notification{malformedNotification(trimJSON(p.Body), "remainder of a cut page")}
	}
	if c.Foreign {
		c.reason = "something else was sent in the queue's place: it holds no notification"
		if what := describe(p.Body); what != "" {
			c.reason += "; it is " + what
		}
	}
	return c
}

// Frame returns what goes in front of the elements, between two of them and behind them where some of them are put
// together to a page of their own.
func (c Contents) Frame() (begin, between, end string) {
	if c.XML {
		return "<ArrayOfNotificationMessage>", "", "</ArrayOfNotificationMessage>"
	}
	return "[", ",", "]"
}

// Reason says in words why a foreign page is none.
func (c Contents) Reason() string { return c.reason }

// ForeignAt reports whether an element is no notification. The beginning of one that was cut off counts as a notification.
func (c Contents) ForeignAt(i int) bool {
	return c.List[i].foreign() && !(c.piece && i == len(c.List)-1)
}

// Notifications returns how many of the elements are notifications.
func (c Contents) Notifications() int {
	count := 0
	for i := range c.List {
		if !c.ForeignAt(i) {
			count++
		}
	}
	return count
}

// Entries returns how many entries the page has for a reader: something foreign is one, however many elements it has.
func (c Contents) Entries() int {
	if c.Foreign {
		return 1
	}
	return len(c.List)
}

// Err returns the error of a poll whose answer was something else in the queue's place, nil for any other page. The
// outcome is Malformed.
func (c Contents) Err(p Page) error {
	if !c.Foreign {
		return nil
	}
	return &Error{
		Operation: OpPoll, Outcome: Malformed, CorrelationID: p.CorrelationID,
		err: errors.New(c.reason),
	}
}

// beginsNotification reports whether bytes begin like a notification: with an object or element, and a name of one of
// the fields by which a notification is known.
func beginsNotification(raw []byte) bool {
	return len(raw) > 0 && (raw[0] == '{' || raw[0] == '<') && notificationField.Match(raw[:min(len(raw), maxDescribed)])
}

var notificationField = regexp.MustCompile(`(?i)["<](notificationid|topic|eventtype|resources|resourceuris)[">\s]`)

// foreign reports whether an element has nothing of a notification: it is not a JSON object, or the fields by which one
// is known are missing or empty.
func (n Notification) foreign() bool {
	if n.Order != "" || n.ID != "" || n.Topic != "" {
		return false
	}
	if n.Malformed {
		return true
	}
	var known struct{ NotificationID, EventType, Topic, Resources, ResourceUris json.RawMessage }
	if json.Unmarshal(n.Raw, &known) != nil {
		return true
	}
	for _, field := range []json.RawMessage{known.NotificationID, known.EventType, known.Topic, known.Resources, known.ResourceUris} {
		switch string(field) {
		case "", "null", `""`, "[]", "{}":
		default:
			return false
		}
	}
	return true
}

// Abridge returns a notification of the newer form with what of n an event is made of, for a notification that is too
// large to be kept whole.
func (n Notification) Abridge() []byte {
	type resource struct{ ResourceType, ResourceId string }
	short := struct {
		NotificationId string `json:",omitempty"`
		Topic          string
		CreatedAt      string
		SiteId         string
		CompanyCode    string `json:",omitempty"`
		Resources      []resource
	}{n.ID, n.Topic, n.CreatedAt, n.SiteID, n.CompanyCode, []resource{{"PartsOrder", n.Order}}}
	b, err := json.Marshal(short)
	if err != nil { // texts always encode
		panic(err)
	}
	return b
}
