package audatex

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The vendor's API offers XML beside JSON, for callers whose Accept header asks for it or was lost
// on the way. A page in XML has been taken from the queue like any other, so its notifications are
// parsed.

const (
	// maxXMLDepth bounds how deep the elements of a notification are nested.
	maxXMLDepth = 8
	// maxXMLMembers bounds how many elements one of them has.
	maxXMLMembers = 10_000
)

var errXMLNotification = errors.New("notification is XML that cannot be read")

// parseXMLPage parses an array of notifications, or notifications one after another, as .NET writes
// them. ok is false if the body is something else. As in ParsePage, nothing is lost.
func parseXMLPage(body []byte) (list []Notification, ok bool, err error) {
	d := newXMLDecoder(body)
	inArray, from := false, int64(0) // from is the beginning of what was not read yet
	rest := func(why string, err error) ([]Notification, bool, error) {
		if left := trimSpace(body[from:]); len(left) > 0 {
			list = append(list, malformedNotification(left, why))
		}
		return list, ok, err
	}
	for {
		at := d.InputOffset()
		token, err := d.Token()
		if err != nil {
			if left := trimSpace(body[from:]); len(left) > 0 || inArray {
				return rest("remainder of a cut page", errPageCut)
			}
			return list, ok, nil
		}
		switch token := token.(type) {
		case xml.StartElement:
			name := strings.ToLower(token.Name.Local)
			switch {
			case !inArray && strings.Contains(name, "notification") &&
				(strings.HasPrefix(name, "arrayof") || strings.HasSuffix(name, "s")):
				inArray, ok, from = true, true, d.InputOffset()
				continue
			case !inArray && !strings.Contains(name, "notification"):
				if !ok {
					return nil, false, nil
				}
				return rest("bytes after the page", fmt.Errorf("%w: bytes after the array", ErrPage))
			}
			if len(list) == maxElements {
				return rest("remainder of an overlong page",
					fmt.Errorf("%w: more than %d elements", ErrPage, maxElements))
			}
			ok, from = true, at
			value, err := xmlValue(d, token, maxXMLDepth)
			if err != nil {
				return rest("remainder of a cut page", errPageCut)
			}
			list = append(list, xmlNotification(trimSpace(body[from:d.InputOffset()]), value))
			from = d.InputOffset()
		case xml.EndElement:
			inArray, from = false, d.InputOffset()
		case xml.CharData:
			if len(trimSpace(token)) == 0 {
				from = d.InputOffset()
			} else if ok { // kept, because it is unknown what it is
				from = d.InputOffset()
				list = append(list, malformedNotification(trimSpace(body[at:from]), "text between notifications"))
			} else {
				return nil, false, nil
			}
		default: // a declaration, a comment
			from = d.InputOffset()
		}
	}
}

// isXMLPage reports whether a page is XML that can be parsed to its end.
func isXMLPage(body []byte) bool {
	start := trimStart(body)
	if len(start) == 0 || start[0] != '<' {
		return false
	}
	_, ok, err := parseXMLPage(start)
	return ok && err == nil
}

// isEmptyXMLPage reports whether a page is XML without a notification.
func isEmptyXMLPage(body []byte) bool {
	if body[0] != '<' {
		return false
	}
	list, ok, err := parseXMLPage(body)
	return ok && err == nil && len(list) == 0
}

// xmlNotification parses one element, whose value is given as JSON would have it.
func xmlNotification(raw []byte, value any) Notification {
	asJSON, err := json.Marshal(value)
	if err != nil || len(asJSON) == 0 || asJSON[0] != '{' {
		return malformedNotification(raw, errXMLNotification.Error())
	}
	n := parseNotification(asJSON)
	n.Raw = raw
	return n
}

// xmlLists are the elements that hold others like an array. If there is only one entry, its fields may be
// directly in the list; these are xmlFields.
var (
	xmlLists  = []string{"resources", "resourceuris", "parameters"}
	xmlFields = []string{"resourcetype", "resourceid", "type", "value", "key"}
)

// xmlValue parses the element that begins with start: an array or an object of its elements, or its
// text.
func xmlValue(d *xml.Decoder, start xml.StartElement, depth int) (any, error) {
	if depth == 0 {
		return nil, errXMLNotification
	}
	var (
		list    []any
		members map[string]any
		text    strings.Builder
	)
	inList := slices.Contains(xmlLists, strings.ToLower(start.Name.Local))
	for count := 0; ; {
		token, err := d.Token()
		if err != nil {
			return nil, errXMLNotification
		}
		switch token := token.(type) {
		case xml.StartElement:
			if count++; count > maxXMLMembers {
				return nil, errXMLNotification
			}
			value, err := xmlValue(d, token, depth-1)
			if err != nil {
				return nil, err
			}
			_, isText := value.(string)
			isField := isText && slices.Contains(xmlFields, strings.ToLower(token.Name.Local))
			if inList && !isField {
				list = append(list, value)
				continue
			}
			if members == nil {
				members = map[string]any{}
			}
			members[token.Name.Local] = value
		case xml.CharData:
			text.Write(token)
		case xml.EndElement:
			switch {
			case list != nil:
				return list, nil
			case members != nil:
				return members, nil
			case inList:
				return []any{}, nil
			}
			return text.String(), nil
		}
	}
}

// fromXML returns the elements of an array in XML, or a single value, as JSON, and nil for anything
// else. It is not for orders, whose every digit and type must come from the vendor.
func fromXML(body []byte) []json.RawMessage {
	d := newXMLDecoder(body)
	var root xml.StartElement
	for root.Name.Local == "" {
		token, err := d.Token()
		if err != nil {
			return nil
		}
		root, _ = token.(xml.StartElement)
	}
	asJSON := func(start xml.StartElement) (json.RawMessage, bool) {
		value, err := xmlValue(d, start, maxXMLDepth)
		if err != nil {
			return nil, false
		}
		raw, err := json.Marshal(value)
		return raw, err == nil
	}
	name := strings.ToLower(root.Name.Local)
	switch {
	case name == "string", strings.HasPrefix(name, "subscription"), strings.HasPrefix(name, "topic"):
		if raw, ok := asJSON(root); ok {
			return []json.RawMessage{raw}
		}
		return nil
	case !strings.HasPrefix(name, "arrayof"):
		return nil
	}
	list := []json.RawMessage{}
	for {
		token, err := d.Token()
		if err != nil {
			return nil // it has no end
		}
		switch token := token.(type) {
		case xml.StartElement:
			raw, ok := asJSON(token)
			if !ok || len(list) == maxElements {
				return nil
			}
			list = append(list, raw)
		case xml.EndElement:
			return list
		}
	}
}
