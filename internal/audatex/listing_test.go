package audatex

import (
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

func TestListsAreReadFieldByField(t *testing.T) {
	t.Parallel()
	const other = `"Topic":{"TopicCode":"PARTS.ORDER"}`
	for name, body := range map[string]string{
		"as documented": `[{"SubscriptionId":"` + testSubscription + `",` + other +
			`,"CreatedAt":"2026-01-15T09:38:44.6871504Z"}]`,
		"one in place":    `{"SubscriptionId":"` + testSubscription + `",` + other + `}`,
		"null beside it":  `[null,{"SubscriptionId":"` + testSubscription + `",` + other + `},null]`,
		"a topic as text": `[{"SubscriptionId":"` + testSubscription + `","Topic":"PARTS.ORDER"}]`,
		"odd fields": `[{"SubscriptionId":"` + testSubscription + `",` + other +
			`,"CreatedAt":20260115,"Push":7}]`,
		"other spellings": `[{"subscriptionid":"{` + testSubscription + `}","topic":{"topiccode":" parts.order "}}]`,
		"others beside it": `[{"SubscriptionId":7,"Topic":3},"x",{"SubscriptionId":"` + testSubscription + `",` +
			other + `}]`,
		"a byte order mark": "\xef\xbb\xbf" + `[{"SubscriptionId":"` + testSubscription + `",` + other + `}]`,
		"UTF-16":            utf16LE(`[{"SubscriptionId":"` + testSubscription + `",` + other + `}]`),
	} {
		c := vendor(t, Config{}, answering(200, body))
		subs, err := c.Subscriptions(t.Context(), testToken, relay.LevelSite)
		found := false
		for _, sub := range subs {
			id, ok := canonicalUUID(sub.SubscriptionID)
			found = found || ok && strings.EqualFold(id, testSubscription) &&
				strings.EqualFold(sub.Topic.TopicCode, "PARTS.ORDER")
		}
		if err != nil || !found {
			t.Errorf("%s: %+v, %v", name, subs, err)
		}
		if id, err := c.Subscribe(t.Context(), testToken, relay.LevelSite, "PARTS.ORDER"); err != nil ||
			!strings.Contains(id, testSubscription) {
			t.Errorf("%s: subscribed as %q, %v", name, id, err)
		}
	}
	for body, want := range map[string]int{
		`[]`: 0, `null`: 0, ``: 0, `[null]`: 0, `[{"TopicCode":"A","Description":7},"B",{"Description":"x"}]`: 2,
		`{"TopicCode":"A"}`: 1,
	} {
		c := vendor(t, Config{}, answering(200, body))
		if topics, err := c.Topics(t.Context(), testToken); err != nil || len(topics) != want {
			t.Errorf("%s: topics %+v, %v", body, topics, err)
		}
	}
	for _, body := range []string{`[`, `<html>`, `[{"a":1}]`, `7`} {
		c := vendor(t, Config{}, answering(200, body))
		_, err := c.Topics(t.Context(), testToken)
		outcomeIs(t, err, Malformed)
		_, err = c.Subscriptions(t.Context(), testToken, relay.LevelSite)
		outcomeIs(t, err, Malformed)
	}
}

// FuzzLists: texts of any list are bounded, and there are no more elements than the list has.
func FuzzLists(f *testing.F) {
	for _, s := range []string{`[]`, `[{"SubscriptionId":"x","Topic":{"TopicCode":"A"}}]`, `{"TopicCode":7}`,
		`["a",null,3]`, `"a"`, `[[]]`} {
		f.Add([]byte(s))
	}
	addRecorded(f, "me", "whoami", "topics", "subscri", "assessment")
	f.Fuzz(func(t *testing.T, body []byte) {
		topics, err := readTopics(body)
		subs, subsErr := readSubscriptions(body)
		if (err != nil && topics != nil) || (subsErr != nil && subs != nil) || len(topics)+len(subs) > 2*len(body) {
			t.Fatalf("%d topics (%v), %d subscriptions (%v)", len(topics), err, len(subs), subsErr)
		}
		me, _ := readMe(body)
		texts := []string{readText(body), me.SiteID, me.CompanyCode, me.TerminalID}
		for _, topic := range topics {
			texts = append(texts, topic.TopicCode, topic.Description)
		}
		for _, sub := range subs {
			texts = append(texts, sub.SubscriptionID, sub.Topic.TopicCode, sub.Topic.Description, sub.CreatedAt)
		}
		for _, s := range texts {
			if len(s) > 4*maxText {
				t.Fatalf("a text of %d bytes", len(s))
			}
		}
	})
}
