package audatex

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

const (
	// maxElements bounds how many notifications are taken from one page; the vendor sends at most
	// PageLimit. The rest is kept as one remainder.
	maxElements = 10_000
	// maxText bounds, in bytes, each text taken from a notification; the raw bytes keep the rest.
	maxText = 256
)

// Notification is one element of a page, parsed as far as possible. Nothing in it is trusted: texts
// are limited, and of the resources only a uuid is taken, never a host or path.
type Notification struct {
	// Raw is the element as received: a JSON object, an XML element or, if it is Malformed, any
	// bytes.
	Raw []byte
	// Malformed is set if Raw cannot be parsed as a notification.
	Malformed bool
	// ID is the vendor's NotificationId; empty in the older form.
	ID string
	// Topic is, for example, PARTS.ORDER.UPDATED. It is EventType if Topic is missing.
	Topic string
	// CreatedAt as received; see ParseTime.
	CreatedAt   string
	SiteID      string
	CompanyCode string
	// Order is the uuid of the order, lower-case. If it is empty, Err is the reason.
	Order string
	Err   error
}

// IsCreated reports whether the notification is about a new order. Any other counts as an update.
func (n Notification) IsCreated() bool { return IsCreated(n.Topic) }

// IsCreated reports whether topic ends with .CREATED, ignoring case.
func IsCreated(topic string) bool {
	const suffix = ".CREATED"
	topic = strings.TrimSpace(topic)
	return len(topic) >= len(suffix) && strings.EqualFold(topic[len(topic)-len(suffix):], suffix)
}

// IsPartsOrder reports whether topic is PARTS.ORDER or below it, ignoring case.
func IsPartsOrder(topic string) bool {
	const top = "PARTS.ORDER"
	topic = strings.TrimSpace(topic)
	if len(topic) < len(top) || !strings.EqualFold(topic[:len(top)], top) {
		return false
	}
	return len(topic) == len(top) || topic[len(top)] == '.'
}

// ErrPage marks a page that is not a well-formed array of notifications. The notifications that
// could be parsed are returned with it.
var ErrPage = errors.New("malformed page of notifications")

// errPageCut is the error of a page without an end: the rest did not arrive.
var errPageCut = fmt.Errorf("%w: array does not end", ErrPage)

// ParsePage parses a page of notifications, in their order. It loses nothing: an element that
// cannot be parsed is returned with Err, and the bytes after the last complete element of a cut
// page as a last, malformed notification, with an error wrapping ErrPage. An empty page, [] and
// null have no notification; an object instead of an array is the only element. XML instead of JSON
// is parsed, too; isXML is set then.
func ParsePage(body []byte) (list []Notification, isXML bool, err error) {
	if start := trimStart(body); len(start) > 0 && start[0] == '<' {
		if list, ok, err := parseXMLPage(start); ok {
			return list, true, err
		}
	}
	list, err = parseJSONPage(body)
	return list, false, err
}

func parseJSONPage(body []byte) ([]Notification, error) {
	body = trimStart(body)
	whole := trimSpace(body)
	if len(whole) == 0 || bytes.Equal(whole, []byte("null")) {
		return nil, nil
	}
	if whole[0] != '[' {
		n := parseNotification(whole)
		if n.Malformed {
			n.Raw = body
			return []Notification{n}, fmt.Errorf("%w: not an array", ErrPage)
		}
		return []Notification{n}, nil
	}
	var (
		list []Notification
		rest = body[1:]
	)
	for {
		if len(list) == maxElements {
			if rest = trimSpace(rest); len(rest) == 0 || bytes.Equal(rest, []byte("]")) {
				return list, nil
			}
			return append(list, malformedNotification(rest, "remainder of an overlong page")),
				fmt.Errorf("%w: more than %d elements", ErrPage, maxElements)
		}
		end, closed := partEnd(rest, ']')
		if end < 0 {
			rest = bytes.TrimLeft(rest, jsonSpace)
			switch {
			case len(rest) == 0:
			case json.Valid(rest): // cut right after an element
				list = append(list, parseNotification(trimSpace(rest)))
			default:
				list = append(list, malformedNotification(rest, "remainder of a cut page"))
			}
			return list, errPageCut
		}
		if raw := trimSpace(rest[:end]); len(raw) > 0 {
			list = append(list, parseNotification(raw))
		}
		rest = rest[end+1:]
		if closed {
			break
		}
	}
	if rest = trimSpace(rest); len(rest) > 0 {
		return append(list, malformedNotification(rest, "bytes after the page")),
			fmt.Errorf("%w: bytes after the array", ErrPage)
	}
	return list, nil
}

// EncodedPage returns the contents of a page that cannot be decoded: all its bytes as one malformed
// notification.
func EncodedPage(body []byte, encoding string) []Notification {
	why := "page in Content-Encoding " + quote(encoding) + ", which cannot be undone"
	return []Notification{malformedNotification(body, why)}
}

// partEnd returns the index of the comma, or of the closing bracket, that ends the element or
// member at the start of b, or -1. closed is set if it is the bracket. A part that is not JSON does not
// affect those after it.
func partEnd(b []byte, closing byte) (end int, closed bool) {
	depth := 0
	for i, c := range structure(b) {
		switch {
		case c == '{' || c == '[':
			depth++
		case depth > 0 && c != ',':
			depth--
		case depth == 0 && (c == closing || c == ','):
			return i, c == closing
		}
	}
	return -1, false
}

// structure returns the brackets and commas of JSON outside its strings, with their indexes.
func structure(b []byte) iter.Seq2[int, byte] {
	return func(yield func(int, byte) bool) {
		inString := false
		for i := 0; i < len(b); i++ {
			switch c := b[i]; {
			case inString && c == '\\':
				i++
			case c == '"':
				inString = !inString
			case inString:
			case c == '{' || c == '[' || c == '}' || c == ']' || c == ',':
				if !yield(i, c) {
					return
				}
			}
		}
	}
}

func malformedNotification(raw []byte, why string) Notification {
	return Notification{Raw: raw, Malformed: true, Err: errors.New(why)}
}

// parseNotification parses one element. Every field is parsed by itself: a wrong type in one does
// not affect another.
func parseNotification(raw []byte) Notification {
	if len(raw) == 0 || raw[0] != '{' {
		return malformedNotification(raw, "notification is not a JSON object")
	}
	var w struct {
		NotificationID, EventType, Topic, CompanyCode, SiteID, CreatedAt, Resources, ResourceUris json.RawMessage
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return malformedNotification(raw, "notification is not JSON")
	}
	n := Notification{
		Raw: raw, ID: text(w.NotificationID), Topic: text(w.Topic),
		CreatedAt: text(w.CreatedAt), SiteID: text(w.SiteID), CompanyCode: text(w.CompanyCode),
	}
	if n.Topic == "" {
		n.Topic = text(w.EventType)
	}
	n.Order, n.Err = orderOf(w.Resources, w.ResourceUris)
	return n
}

// text returns a JSON string, number or boolean as text, without surrounding white space, of at
// most maxText bytes. For anything else it returns "".
func text(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	s := ""
	switch c := raw[0]; {
	case c == '"':
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
	case c == '-' || c >= '0' && c <= '9' || c == 't' || c == 'f':
		s = string(raw[:min(len(raw), maxText)])
	}
	if s = strings.TrimSpace(s); len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// quote returns a foreign text for an error, limited and escaped.
func quote(s string) string { return strconv.Quote(s[:min(len(s), 80)]) }
