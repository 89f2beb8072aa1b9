package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// leafTopics are the vendor's events. A subscription may name any of them, or any beginning of one
// that ends before a dot.
var leafTopics = []string{
	TopicCreated, TopicUpdated,
	"ASSESSMENT.EXPORT.CREATED",
	"ASSESSMENT.IMAGE.CREATED", "ASSESSMENT.IMAGE.DELETED",
	"ASSESSMENT.MAIL.RECEIVED", "ASSESSMENT.MAIL.SENT",
	"ASSESSMENT.STATUS.ASSIGNED", "ASSESSMENT.STATUS.AUTHORISED", "ASSESSMENT.STATUS.COMPLETED",
	"ASSESSMENT.STATUS.CREATED", "ASSESSMENT.STATUS.RECEIVED", "ASSESSMENT.STATUS.SENT", "ASSESSMENT.STATUS.UPDATED",
}

// The topics of parts orders.
const (
	TopicCreated = "PARTS.ORDER.CREATED"
	TopicUpdated = "PARTS.ORDER.UPDATED"
)

var (
	topicFormat = regexp.MustCompile(`^[A-Z]+(\.[A-Z]+)*$`)
	allTopics   = withStems(leafTopics)
)

// withStems returns the topics and everything above them, each once.
func withStems(leaves []string) []string {
	var all []string
	for _, leaf := range leaves {
		for i := range leaf {
			if leaf[i] == '.' && !slices.Contains(all, leaf[:i]) {
				all = append(all, leaf[:i])
			}
		}
		all = append(all, leaf)
	}
	return all
}

// covers reports whether a subscription to stem receives topic.
func covers(stem, topic string) bool {
	return topic == stem || strings.HasPrefix(topic, stem+".")
}

// subscription is one queue.
type subscription struct {
	id      string
	topic   string
	owner   *owner
	created time.Time
	queue   []*notification
}

type wireTopic struct {
	TopicCode   string
	Description string
}

func topicOf(code string) wireTopic {
	words := strings.ToLower(strings.ReplaceAll(code, ".", " "))
	return wireTopic{code, strings.ToUpper(words[:1]) + words[1:]}
}

func (s *Sandbox) topics(call) answer {
	behaviour := s.Behaviour()
	list := make([]wireTopic, 0, len(allTopics))
	for _, code := range allTopics {
		if behaviour.enabled(code) {
			list = append(list, topicOf(code))
		}
	}
	return jsonValue(http.StatusOK, list)
}

type wireSubscription struct {
	SubscriptionId string
	Topic          *wireTopic
	CreatedAt      string
	Push           json.RawMessage
	// Region is an example of fields that the vendor may add later.
	Region *string `json:",omitempty"`
}

// uninitialised is the setting of a subscription that nothing is pushed for.
var uninitialised = json.RawMessage(
	`{"URL":null,"Format":"Uninitialised","AuthEnabled":false,"AuthScheme":null,"AuthParameter":null}`)

func (s *Sandbox) listSubscriptions(c call) answer {
	s.mu.Lock()
	subs := slices.Clone(c.grant.owner.subs)
	s.mu.Unlock()
	if len(subs) == 0 {
		return answer{status: http.StatusNoContent}
	}
	list := make([]wireSubscription, 0, len(subs))
	for i, sub := range subs {
		topic := topicOf(sub.topic)
		w := wireSubscription{SubscriptionId: sub.id, Topic: &topic, CreatedAt: vendorTime(sub.created, true)}
		if !s.cfg.Tame {
			region := "UK & <North>"
			w.Region = &region
			w.CreatedAt = vendorTime(sub.created, i%2 == 0)
			w.Push = uninitialised
		}
		list = append(list, w)
	}
	return jsonValue(http.StatusOK, list)
}

func (s *Sandbox) subscribe(c call) answer {
	topic := c.URL.Query().Get("topicCode")
	if !topicFormat.MatchString(topic) {
		return plain(http.StatusBadRequest, "Invalid topic format.")
	}
	if !slices.Contains(allTopics, topic) || !s.Behaviour().enabled(topic) {
		return plain(http.StatusNotFound, "The topic does not exist.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := c.grant.owner
	if slices.ContainsFunc(o.subs, func(sub *subscription) bool { return sub.topic == topic }) {
		return plain(http.StatusConflict, "The "+string(o.level)+" is already subscribed to this topic.")
	}
	s.nextSub++
	sub := &subscription{id: s.dice("subscription", s.nextSub).uuid(), topic: topic, owner: o, created: s.now()}
	o.subs = append(o.subs, sub)
	s.subs[sub.id] = sub
	s.subOrder = append(s.subOrder, sub)
	s.tally.SubscriptionsCreated++
	if s.cfg.Tame {
		full := topicOf(topic)
		w := wireSubscription{SubscriptionId: sub.id, Topic: &full, CreatedAt: vendorTime(sub.created, true)}
		return jsonValue(http.StatusOK, w)
	}
	// Clients can only rely on the id.
	return jsonValue(http.StatusOK, map[string]any{"SubscriptionId": sub.id, "Topic": nil, "Result": "OK"})
}

// owned returns the subscription of the path if it is the caller's. Ids are compared without case,
// like .NET's uuids. The caller must hold mu.
func (s *Sandbox) owned(c call) *subscription {
	sub := s.subs[strings.ToLower(c.PathValue("id"))]
	if sub == nil || sub.owner != c.grant.owner {
		return nil
	}
	return sub
}

const textNoSubscription = "The subscription does not exist."

func (s *Sandbox) unsubscribe(c call) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.owned(c)
	if sub == nil {
		return plain(http.StatusNotFound, textNoSubscription)
	}
	s.drop(sub)
	return answer{status: http.StatusNoContent}
}

// drop removes a subscription and what waits in it. The caller must hold mu.
func (s *Sandbox) drop(sub *subscription) {
	for _, n := range sub.queue {
		n.Dropped = true
		n.body = nil
	}
	s.tally.NotificationsDropped += int64(len(sub.queue))
	s.tally.SubscriptionsRemoved++
	sub.queue = nil
	delete(s.subs, sub.id)
	is := func(x *subscription) bool { return x == sub }
	sub.owner.subs = slices.DeleteFunc(sub.owner.subs, is)
	s.subOrder = slices.DeleteFunc(s.subOrder, is)
}

// Subscription is a subscription as the control API shows it.
type Subscription struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Owner is the site id, company code or user it belongs to.
	Owner string `json:"owner"`
	Topic string `json:"topic"`
	// Waiting is the number of notifications in its queue.
	Waiting int `json:"waiting"`
}

// Subscriptions returns the existing subscriptions, oldest first.
func (s *Sandbox) Subscriptions() []Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Subscription, 0, len(s.subOrder))
	for _, sub := range s.subOrder {
		list = append(list, Subscription{sub.id, sub.owner.level, sub.owner.name, sub.topic, len(sub.queue)})
	}
	return list
}

// RemoveSubscription removes a subscription without its owner's knowledge, with everything that waits
// in it. It returns ErrNoSubscription if there is no such subscription.
func (s *Sandbox) RemoveSubscription(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs[strings.ToLower(id)]
	if sub == nil {
		return fmt.Errorf("removing subscription %q: %w", id, ErrNoSubscription)
	}
	s.drop(sub)
	return nil
}
