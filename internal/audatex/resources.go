package audatex

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// resource is an entry of Resources (newer form: ResourceType, ResourceId) or ResourceUris (older
// form: Type, Value).
type resource struct {
	kind  string
	value string
}

// matchQuality is how clearly a resource is the parts order. The vendor's exact ResourceType is
// unknown.
type matchQuality int

const (
	notAnOrder  matchQuality = iota
	someOrder                // mentions an order: WorkOrder, OrderLine
	partsOrder               // mentions a parts order: PartsOrderDetail
	exactlyThat              // PartsOrder, parts-order, PARTS.ORDERS
)

// orderOf returns the order's uuid from the resources of a notification: from the entry that is
// most clearly a parts order, or from the only entry.
func orderOf(resources, resourceURIs json.RawMessage) (string, error) {
	id, err := pickOrder(entries(resources, func(raw json.RawMessage) (resource, bool) {
		var w struct{ ResourceType, ResourceID json.RawMessage }
		err := json.Unmarshal(raw, &w)
		return resource{text(w.ResourceType), longText(w.ResourceID)}, err == nil
	}))
	if err == nil {
		return id, nil
	}
	older := entries(resourceURIs, func(raw json.RawMessage) (resource, bool) {
		if raw[0] == '"' { // a bare address instead of {Type, Value}
			return resource{"", longText(raw)}, true
		}
		var w struct{ Type, Value json.RawMessage }
		err := json.Unmarshal(raw, &w)
		return resource{text(w.Type), longText(w.Value)}, err == nil
	})
	if len(older) == 0 {
		return "", err
	}
	return pickOrder(older)
}

// entries parses an array of objects, or a single object. An entry of another type is left out.
func entries(raw json.RawMessage, read func(json.RawMessage) (resource, bool)) []resource {
	if len(raw) == 0 {
		return nil
	}
	elements := []json.RawMessage{raw}
	if raw[0] == '[' && json.Unmarshal(raw, &elements) != nil {
		return nil
	}
	var list []resource
	for _, e := range elements {
		if len(e) == 0 || (e[0] != '{' && e[0] != '"') {
			continue
		}
		if r, ok := read(e); ok {
			list = append(list, r)
		}
	}
	return list
}

// pickOrder chooses among the resources. Two different orders in one notification are an error: one
// of them would be lost without notice.
func pickOrder(list []resource) (string, error) {
	if len(list) == 0 {
		return "", errors.New("notification names no resource")
	}
	best := notAnOrder
	for _, r := range list {
		best = max(best, r.matchQuality())
	}
	if best == notAnOrder && len(list) > 1 {
		return "", fmt.Errorf("none of %d resources is an order", len(list))
	}
	var found, bad string
	for _, r := range list {
		if r.matchQuality() != best {
			continue
		}
		id, ok := lastUUID(r.value)
		switch {
		case !ok:
			bad = r.value
		case found == "":
			found = id
		case found != id:
			return "", errors.New("notification names more than one order")
		}
	}
	if found == "" {
		return "", fmt.Errorf("resource %s holds no order id", quote(bad))
	}
	return found, nil
}

func (r resource) matchQuality() matchQuality {
	if l := orderMatchQuality(r.kind); l != notAnOrder {
		return l
	}
	// An older entry may show it only in its address: …/partsorders/<uuid>.
	segments := pathSegments(r.value)
	if len(segments) < 2 {
		return notAnOrder
	}
	return orderMatchQuality(segments[len(segments)-2])
}

func orderMatchQuality(kind string) matchQuality {
	letters := strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, strings.ToLower(kind))
	switch {
	case letters == "partsorder" || letters == "partorder" || letters == "partsorders" || letters == "partorders":
		return exactlyThat
	case strings.Contains(letters, "partsorder") || strings.Contains(letters, "partorder"):
		return partsOrder
	case strings.Contains(letters, "order"):
		return someOrder
	}
	return notAnOrder
}

// lastUUID returns the uuid in value, which is a uuid or an address with one as its last path
// segment.
func lastUUID(value string) (string, bool) {
	segments := pathSegments(value)
	if len(segments) == 0 {
		return "", false
	}
	last := segments[len(segments)-1]
	if s, err := url.PathUnescape(last); err == nil {
		last = s
	}
	return canonicalUUID(last)
}

// pathSegments splits an address without its query, fragment and trailing slashes. It is not a URL
// parser, because only the last segments matter, and the rest may be anything.
func pathSegments(value string) []string {
	if i := strings.IndexAny(value, "?#"); i >= 0 {
		value = value[:i]
	}
	value = strings.TrimRight(strings.TrimSpace(value), "/")
	if value == "" {
		return nil
	}
	return strings.Split(value, "/")
}

// maxAddress bounds the length of an address from which an order's uuid is taken.
const maxAddress = 4096

// longText is text for addresses, which are longer than names: nothing is cut, and what is too long
// is ignored.
func longText(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || len(raw) > maxAddress || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return strings.TrimSpace(s)
}
