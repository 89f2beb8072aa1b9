package audatex

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// PageLimit is the largest number of notifications that one poll returns (documented for the
// vendor's sister API). After a full page more may be waiting.
const PageLimit = 100

// TopicInfo is a topic that can be subscribed to.
type TopicInfo struct {
	TopicCode   string
	Description string
}

// Subscription makes notifications of a topic queue up at the vendor.
type Subscription struct {
	SubscriptionID string
	Topic          TopicInfo
	// CreatedAt as received; see ParseTime.
	CreatedAt string
}

// Page is the response to one poll. Its bytes no longer exist anywhere else.
type Page struct {
	// Body is without content encodings and in UTF-8, otherwise unchanged; ParsePage parses it.
	Body []byte
	// Truncated is set if the response was cut off or larger than almost 8 MiB; Body is its
	// beginning.
	Truncated bool
	// Encoding is the Content-Encoding that Body still has because it could not be decoded. It is
	// empty for a page that ParsePage can parse.
	Encoding      string
	CorrelationID string
	ReceivedAt    time.Time
}

// Carried reports whether the page must be stored: it has any bytes other than an empty array or
// null.
func (p Page) Carried() bool {
	if p.Encoding != "" {
		return len(p.Body) > 0
	}
	b := trimJSON(p.Body)
	if len(b) >= 2 && b[0] == '[' && b[len(b)-1] == ']' && len(trimSpace(b[1:len(b)-1])) == 0 {
		return false
	}
	return len(b) > 0 && !bytes.Equal(b, []byte("null")) && !isEmptyXMLPage(b)
}

// Order is one parts order as the vendor returned it.
type Order struct {
	// ID is the order's uuid, lower-case.
	ID string
	// JSON is the order's object, with every digit as received. It is valid JSON and valid UTF-8.
	JSON          json.RawMessage
	CorrelationID string
	// ReadAt is when the response had arrived.
	ReadAt time.Time
}

// Whoami returns who owns the token, in the vendor's words.
func (c *Client) Whoami(ctx context.Context, token relay.Secret) (string, error) {
	return c.getString(ctx, OpWhoami, token, "/whoami")
}

// Topics returns the topics that can be subscribed to.
func (c *Client) Topics(ctx context.Context, token relay.Secret) ([]TopicInfo, error) {
	return getList(ctx, c, call{op: OpTopics, path: "/topics", token: token}, readTopics)
}

// Subscriptions returns the subscriptions of the token's site, company or user; none is not an
// error.
func (c *Client) Subscriptions(ctx context.Context, token relay.Secret, level relay.Level) ([]Subscription, error) {
	return getList(ctx, c, call{op: OpSubscriptions, path: subscriptionsPath(level), token: token}, readSubscriptions)
}

// Subscribe subscribes to topic and returns the subscription's id, the only reliable field of the
// response. The outcome is Conflict if the topic is subscribed already (list the subscriptions to
// find the id), and NotFound if the topic is unknown. Malformed with a status of success means that
// the topic is subscribed, but the response does not contain the id.
func (c *Client) Subscribe(ctx context.Context, token relay.Secret, level relay.Level, topic string) (string, error) {
	a, err := c.get(ctx, call{
		op: OpSubscribe, method: http.MethodPost,
		path: subscriptionsPath(level) + "?topicCode=" + url.QueryEscape(topic), token: token,
	})
	if err != nil {
		return "", err
	}
	subs, _ := readSubscriptions(a.body)
	for _, sub := range subs {
		if _, ok := canonicalUUID(sub.SubscriptionID); ok {
			return sub.SubscriptionID, nil
		}
	}
	return "", a.malformed(OpSubscribe, errors.New("answer names no subscription id"))
}

// Unsubscribe ends a subscription; its waiting notifications are lost. The outcome is NotFound if
// there is none.
func (c *Client) Unsubscribe(ctx context.Context, token relay.Secret, level relay.Level, subscriptionID string) error {
	segment, err := uuidSegment(OpUnsubscribe, subscriptionID)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, call{
		op: OpUnsubscribe, method: http.MethodDelete, path: subscriptionsPath(level) + segment,
		token: token, limit: maxOtherBody, http: c.plain,
	}, nil)
	return err
}

// Poll takes the waiting notifications. It is destructive: what a response carried is gone at the
// vendor. Therefore
//   - announce, if not nil, is called when the budget allows the call and right before anything is
//     sent (the place for storing the intent); if it fails, nothing is sent and its error is
//     returned;
//   - once announced, the call runs to its end within the client's timeout, even if ctx ends;
//   - it is never repeated by itself;
//   - the page is returned together with the error whenever bytes of a response were read (cut off,
//     too large, malformed): store page if page.Carried(), regardless of err;
//   - Error.AnswerLost is set if notifications may have been lost on the way.
//
// NotFound means that the subscription is gone.
func (c *Client) Poll(
	ctx context.Context, token relay.Secret, level relay.Level, subscriptionID string,
	announce func(context.Context) error,
) (Page, error) {
	segment, err := uuidSegment(OpPoll, subscriptionID)
	if err != nil {
		return Page{}, err
	}
	if announce == nil {
		announce = func(context.Context) error { return nil }
	}
	a, err := c.do(ctx, call{
		op: OpPoll, method: http.MethodGet, path: subscriptionsPath(level) + segment + "/notifications",
		token: token, limit: maxPageBody, http: c.once,
	}, func(ctx context.Context) (context.Context, error) {
		// The caller who announced a destructive call must get its result, so it runs to its end.
		return context.WithoutCancel(ctx), announce(ctx)
	})
	page := Page{
		Body: a.body, Truncated: a.truncated, Encoding: a.encoding, CorrelationID: a.correlationID, ReceivedAt: a.at,
	}
	if err == nil && page.Carried() && !json.Valid(trimJSON(page.Body)) && !isXMLPage(page.Body) {
		malformed := a.malformed(OpPoll, errors.New("page is not JSON"))
		contents := ReadContents(page)
		malformed.AnswerLost = contents.cut && !contents.Foreign
		err = malformed
	}
	return page, err
}

// AssessmentID returns the uuid (lower-case) of the assessment with an originator and a number.
func (c *Client) AssessmentID(ctx context.Context, token relay.Secret, originator, number string) (string, error) {
	for _, arg := range []string{originator, number} {
		if arg == "" || arg == "." || arg == ".." {
			return "", &Error{Operation: OpAssessment, Outcome: NotFound,
				err: fmt.Errorf("%q names no assessment", arg)}
		}
	}
	path := "/assessments/originator/" + url.PathEscape(originator) + "/assessments/" + url.PathEscape(number)
	s, err := c.getString(ctx, OpAssessment, token, path)
	if err != nil {
		return "", err
	}
	id, ok := canonicalUUID(s)
	if !ok {
		return "", &Error{Operation: OpAssessment, Outcome: Malformed, Status: http.StatusOK,
			err: errors.New("answer is no uuid")}
	}
	return id, nil
}

// get makes a small call, a GET unless another method is set.
func (c *Client) get(ctx context.Context, k call) (answer, error) {
	if k.method == "" {
		k.method = http.MethodGet
	}
	k.limit, k.http = maxOtherBody, c.plain
	return c.do(ctx, k, nil)
}

// getList makes a small call whose response is a list.
func getList[T any](ctx context.Context, c *Client, k call, read func([]byte) ([]T, error)) ([]T, error) {
	a, err := c.get(ctx, k)
	if err != nil {
		return nil, err
	}
	list, err := read(a.body)
	if err != nil {
		return nil, a.malformed(k.op, err)
	}
	return list, nil
}

func (c *Client) getString(ctx context.Context, op Operation, token relay.Secret, path string) (string, error) {
	a, err := c.get(ctx, call{op: op, path: path, token: token})
	if err != nil {
		return "", err
	}
	s := readText(a.body)
	if s == "" {
		return "", a.malformed(op, errors.New("answer holds no text"))
	}
	return s, nil
}

func subscriptionsPath(level relay.Level) string {
	return "/" + url.PathEscape(string(level)) + "/subscriptions"
}

// uuidSegment returns a path segment for an id from the vendor or the store: nothing but a uuid
// ever becomes part of a path. Its case is kept.
func uuidSegment(op Operation, id string) (string, error) {
	if _, ok := canonicalUUID(id); !ok {
		return "", &Error{Operation: op, Outcome: NotFound, err: fmt.Errorf("%q is no uuid", id[:min(len(id), 64)])}
	}
	return "/" + url.PathEscape(strings.TrimSpace(id)), nil
}

// jsonSpace is JSON's white space. Other white space of Unicode is data.
const jsonSpace = " \t\r\n"

func trimSpace(b []byte) []byte { return bytes.Trim(b, jsonSpace) }

// trimJSON removes white space and a byte order mark, which IIS is known to send, around a
// document.
func trimJSON(b []byte) []byte { return bytes.TrimRight(trimStart(b), jsonSpace) }

// trimStart is trimJSON for a document that may have been cut: its last bytes may be part of a
// string.
func trimStart(b []byte) []byte {
	return bytes.TrimLeft(bytes.TrimPrefix(bytes.TrimLeft(b, jsonSpace), []byte("\xef\xbb\xbf")), jsonSpace)
}
