package audatex

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
)

// DefaultTopic is what the relay subscribes to by default: orders created and updated.
const DefaultTopic = "PARTS.ORDER"

// ServiceDesk is the vendor's contact, who needs the Correlation-Id of the response in question.
const ServiceDesk = "servicedesk@audatex.co.uk"

// topicsNamed bounds how many topics an error lists, and topicLength their length: they come from
// the vendor.
const (
	topicsNamed = 20
	topicLength = 64
)

// TopicMissingError means that the vendor has no such topic for a connection's user, or has not
// enabled it. Its outcome is NotFound.
type TopicMissingError struct {
	Topic string
	// Topics are the topics that the vendor lists for the user; nil if they could not be read.
	Topics []string
	cause  error
}

// Error lists the existing topics and names the vendor's contact.
func (e *TopicMissingError) Error() string {
	there := "Which topics there are could not be read."
	switch {
	case len(e.Topics) > 0:
		there = "Topics there are: " + strings.Join(e.Topics, ", ") + "."
	case e.Topics != nil:
		there = "The vendor lists no topics at all."
	}
	with := ""
	if id := CorrelationIDOf(e.cause); id != "" {
		with = " and name the Correlation-Id " + id
	}
	return fmt.Sprintf("the vendor has no topic %s for this connection. %s Ask the vendor's service desk (%s) "+
		"to enable the topic%s; the relay tries again by itself", e.Topic, there, ServiceDesk, with)
}

// Unwrap returns the vendor's refusal.
func (e *TopicMissingError) Unwrap() error { return e.cause }

// missingTopic returns the error for a topic for which the vendor returned 404, with the existing
// topics.
func (s *Session) missingTopic(ctx context.Context, topic string, refused error) error {
	missing := &TopicMissingError{Topic: topic, cause: refused}
	topics, err := s.Topics(ctx)
	if err != nil {
		return missing
	}
	missing.Topics = []string{}
	for _, t := range topics {
		if code := message([]byte(t.TopicCode), relay.Secret{}); code != "" {
			missing.Topics = append(missing.Topics, strings.ToValidUTF8(code[:min(len(code), topicLength)], ""))
		}
	}
	family, _, _ := strings.Cut(topic, ".")
	slices.SortFunc(missing.Topics, func(a, b string) int { // those of the topic's own family first
		return cmp.Or(cmp.Compare(rank(a, family), rank(b, family)), cmp.Compare(a, b))
	})
	if len(missing.Topics) > topicsNamed {
		missing.Topics = append(missing.Topics[:topicsNamed:topicsNamed], "…")
	}
	return missing
}

// rank is 0 for a topic of a family, such as PARTS, and 1 for any other.
func rank(topic, family string) int {
	if first, _, _ := strings.Cut(topic, "."); strings.EqualFold(first, family) {
		return 0
	}
	return 1
}

// refusedTopic reports whether an error means that the vendor has no such topic.
func refusedTopic(err error) bool {
	e := errorOf(err)
	return e.Operation == OpSubscribe && e.Outcome == NotFound
}
