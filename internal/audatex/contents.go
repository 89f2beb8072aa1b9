package audatex

import (
	"encoding/json"
	"errors"
	"regexp"
)

// Contents are the parsed contents of a page.
type Contents struct {
	// List is what ParsePage returns.
	List []Notification
	// Whole is set if all elements of List are complete, including the last.
	Whole bool
	// Foreign is set if there are bytes, but no notification among them: something else was sent
	// instead of the queue.
	Foreign bool
	// XML is set if the page is XML, although JSON was requested.
	XML bool

	reason string // why a foreign page is not a page of notifications
	cut    bool   // the page has no end
	piece  bool   // the last element of List is the beginning of an element that was cut off
}

// ReadContents parses a page. A page in an encoding that cannot be decoded is foreign.
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
	c.Foreign = c.Foreign && c.Notifications() == 0
	if c.Foreign && len(list) == 0 { // there is only the beginning of a page
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

// Frame returns what must be written before, between and after elements if some of them are put in
// a page of their own.
func (c Contents) Frame() (begin, between, end string) {
	if c.XML {
		return "<ArrayOfNotificationMessage>", "", "</ArrayOfNotificationMessage>"
	}
	return "[", ",", "]"
}

// Reason returns why a foreign page is not a page of notifications, in words.
func (c Contents) Reason() string { return c.reason }

// ForeignAt reports whether an element is not a notification. The beginning of one that was cut off
// counts as a notification.
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

// Entries returns the number of entries for a reader of the page: a foreign page is one entry,
// however many elements it has.
func (c Contents) Entries() int {
	if c.Foreign {
		return 1
	}
	return len(c.List)
}

// Err returns the error of a poll that returned something else than the queue, or nil. The outcome
// is Malformed.
func (c Contents) Err(p Page) error {
	if !c.Foreign {
		return nil
	}
	return &Error{
		Operation: OpPoll, Outcome: Malformed, CorrelationID: p.CorrelationID,
		err: errors.New(c.reason),
	}
}

// beginsNotification reports whether bytes begin like a notification: with an object or element,
// and the name of a field that is typical of notifications.
func beginsNotification(raw []byte) bool {
	return len(raw) > 0 && (raw[0] == '{' || raw[0] == '<') &&
		notificationField.Match(raw[:min(len(raw), maxDescribed)])
}

var notificationField = regexp.MustCompile(`(?i)["<](notificationid|topic|eventtype|resources|resourceuris)[">\s]`)

// foreign reports whether an element is certainly not a notification: it is not a JSON object, or
// the typical fields are missing or empty.
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
	fields := []json.RawMessage{known.NotificationID, known.EventType, known.Topic, known.Resources, known.ResourceUris}
	for _, field := range fields {
		switch string(field) {
		case "", "null", `""`, "[]", "{}":
		default:
			return false
		}
	}
	return true
}

// Abridge returns a notification of the newer form with those parts of n that an event needs. It
// replaces a notification that is too large to be kept.
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
