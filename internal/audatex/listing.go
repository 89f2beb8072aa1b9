package audatex

import (
	"encoding/json"
	"errors"

	"github.com/audatex-relay/relay/internal/relay"
)

// errNotExpected is the error of a complete response with unexpected contents.
var errNotExpected = errors.New("answer is not the JSON expected")

// objectsOf returns the elements of an array, or a single value. Nothing and null are no elements,
// and neither is an element that is null.
func objectsOf(body []byte) ([]json.RawMessage, error) {
	body = trimJSON(body)
	if len(body) == 0 {
		return nil, nil
	}
	elements := []json.RawMessage{body}
	switch {
	case body[0] == '[':
		elements = nil
		if json.Unmarshal(body, &elements) != nil {
			return nil, errNotExpected
		}
	case body[0] == '<':
		if elements = fromXML(body); elements == nil {
			return nil, errNotExpected
		}
	case !json.Valid(body):
		return nil, errNotExpected
	}
	list := elements[:0]
	for _, e := range elements {
		if e = trimSpace(e); string(e) != "null" {
			list = append(list, e)
		}
	}
	return list, nil
}

// readTopics parses a list of topics. Each field is parsed by itself; elements that name no topic
// are left out.
func readTopics(body []byte) ([]TopicInfo, error) {
	return readList(body, readTopic, func(t TopicInfo) bool { return t.TopicCode != "" })
}

// readList parses the elements of a list and leaves out those that are not valid. If none is, it
// returns an error.
func readList[T any](body []byte, read func(json.RawMessage) T, valid func(T) bool) ([]T, error) {
	elements, err := objectsOf(body)
	if err != nil {
		return nil, err
	}
	list := make([]T, 0, len(elements))
	for _, e := range elements {
		if v := read(e); valid(v) {
			list = append(list, v)
		}
	}
	if len(list) == 0 && len(elements) > 0 {
		return nil, errNotExpected
	}
	return list, nil
}

// readTopic parses a topic, or a text that is its code.
func readTopic(raw json.RawMessage) TopicInfo {
	if len(raw) > 0 && raw[0] == '"' {
		return TopicInfo{TopicCode: text(raw)}
	}
	var w struct{ TopicCode, Description json.RawMessage }
	if len(raw) == 0 || json.Unmarshal(raw, &w) != nil {
		return TopicInfo{}
	}
	return TopicInfo{TopicCode: text(w.TopicCode), Description: text(w.Description)}
}

// readSubscriptions parses a list of subscriptions in the same way.
func readSubscriptions(body []byte) ([]Subscription, error) {
	return readList(body, readSubscription, func(s Subscription) bool { return s.SubscriptionID != "" })
}

// readSubscription parses a subscription, or a text that is its id.
func readSubscription(raw json.RawMessage) Subscription {
	if len(raw) > 0 && raw[0] == '"' {
		return Subscription{SubscriptionID: text(raw)}
	}
	var w struct{ SubscriptionID, Topic, CreatedAt json.RawMessage }
	if len(raw) == 0 || json.Unmarshal(raw, &w) != nil {
		return Subscription{}
	}
	return Subscription{SubscriptionID: text(w.SubscriptionID), Topic: readTopic(w.Topic), CreatedAt: text(w.CreatedAt)}
}

// readText parses a JSON string, or a text that was sent without quotes or as XML.
func readText(body []byte) string {
	body = trimJSON(body)
	switch {
	case len(body) > 0 && body[0] == '<':
		if e := fromXML(body); len(e) == 1 {
			return text(e[0])
		}
		return ""
	case len(body) == 0 || body[0] == '{' || body[0] == '[':
		return ""
	case body[0] == '"':
		return text(body)
	case json.Valid(body): // a number, null
		return ""
	}
	return message(body, relay.Secret{})
}
