package audatex

import (
	"encoding/json"
	"errors"

	"github.com/audatex-relay/relay/internal/relay"
)

// errNotExpected is the error of an answer that came whole but holds something else than it should.
var errNotExpected = errors.New("answer is not the JSON expected")

// objectsOf takes the elements of an array, or the one value in its place. Nothing and null are none, and so is an
// element that is null.
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

// readTopics reads a list of topics. Each field is taken for itself; what names no topic is left out, unless
// nothing does.
func readTopics(body []byte) ([]TopicInfo, error) {
	elements, err := objectsOf(body)
	if err != nil {
		return nil, err
	}
	topics := make([]TopicInfo, 0, len(elements))
	for _, e := range elements {
		if t := readTopic(e); t.TopicCode != "" {
			topics = append(topics, t)
		}
	}
	if len(topics) == 0 && len(elements) > 0 {
		return nil, errNotExpected
	}
	return topics, nil
}

// readTopic reads a topic, or the text that is its code.
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

// readSubscriptions reads a list of subscriptions in the same way.
func readSubscriptions(body []byte) ([]Subscription, error) {
	elements, err := objectsOf(body)
	if err != nil {
		return nil, err
	}
	subs := make([]Subscription, 0, len(elements))
	for _, e := range elements {
		if s := readSubscription(e); s.SubscriptionID != "" {
			subs = append(subs, s)
		}
	}
	if len(subs) == 0 && len(elements) > 0 {
		return nil, errNotExpected
	}
	return subs, nil
}

// readSubscription reads a subscription, or the text that is its id.
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

// readText reads a JSON string, or a text that was sent as it is or as XML in its place.
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
