package audatex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Session makes the calls of one connection, with its tokens and at its level. A call with a 401
// response is repeated once with a refreshed token; a second 401 is Unauthorised. A 401 has read
// nothing, so even a poll may be repeated. A Session is safe for concurrent use and cheap to make.
type Session struct {
	client     *Client
	tokens     *Tokens
	connection string
	level      relay.Level
}

// NewSession returns a Session of a client for a connection. Without a level it is a site's.
func NewSession(client *Client, tokens *Tokens, connection string, level relay.Level) *Session {
	level = cmp.Or(level, relay.LevelSite)
	in := client.inTurn(turn{connection: connection, tokens: tokens})
	return &Session{client: in, tokens: tokens, connection: connection, level: level}
}

// At returns the same session with one priority for all calls instead of each operation's own.
func (s *Session) At(p Priority) *Session {
	at := *s
	at.client = s.client.inTurn(turn{connection: s.connection, priority: &p, tokens: s.tokens})
	return &at
}

// Whoami returns who owns the connection's token.
func (s *Session) Whoami(ctx context.Context) (string, error) {
	return with(ctx, s, func(token relay.Secret) (string, error) { return s.client.Whoami(ctx, token) })
}

// Topics returns the topics that can be subscribed to.
func (s *Session) Topics(ctx context.Context) ([]TopicInfo, error) {
	return with(ctx, s, func(token relay.Secret) ([]TopicInfo, error) { return s.client.Topics(ctx, token) })
}

// Subscriptions returns the connection's subscriptions.
func (s *Session) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return with(ctx, s, func(token relay.Secret) ([]Subscription, error) {
		return s.client.Subscriptions(ctx, token, s.level)
	})
}

// Subscribe subscribes to topic; see Client.Subscribe.
func (s *Session) Subscribe(ctx context.Context, topic string) (string, error) {
	return with(ctx, s, func(token relay.Secret) (string, error) {
		return s.client.Subscribe(ctx, token, s.level, topic)
	})
}

// EnsureSubscription subscribes to topic, or finds the existing subscription. In the second case
// existed is true, and another reader may be using the same queue. A subscription that was just
// made and whose id cannot be read is found in the same way. The outcome is Conflict if the vendor
// reports that the topic is subscribed but does not list it. A *TopicMissingError lists the
// existing topics.
func (s *Session) EnsureSubscription(ctx context.Context, topic string) (sub Subscription, existed bool, err error) {
	id, err := s.Subscribe(ctx, topic)
	made, _ := errors.AsType[*Error](err)
	unread := made != nil && made.Operation == OpSubscribe && made.Outcome == Malformed && made.Status/100 == 2
	switch {
	case refusedTopic(err):
		return Subscription{}, false, s.missingTopic(ctx, topic, err)
	case OutcomeOf(err) != Conflict && !unread:
		return Subscription{SubscriptionID: id}, false, err
	}
	subs, listErr := s.Subscriptions(ctx)
	if listErr != nil {
		return Subscription{}, false, fmt.Errorf("topic %s is subscribed already: %w", topic, listErr)
	}
	var unnamed []Subscription // those whose topic the list does not contain
	for _, sub := range subs {
		_, ok := canonicalUUID(sub.SubscriptionID)
		switch code := strings.TrimSpace(sub.Topic.TopicCode); {
		case ok && strings.EqualFold(code, topic):
			return sub, !unread, nil
		case ok && code == "":
			unnamed = append(unnamed, sub)
		}
	}
	if len(unnamed) == 1 { // there must be one, and there is no other
		return unnamed[0], !unread, nil
	}
	return Subscription{}, false, err
}

// TokenReplaced must be called if the connection's tokens may have been written by another process.
// They are read again before the next call.
func (s *Session) TokenReplaced() { s.tokens.drop(s.connection) }

// Forget must be called when nothing is done for the connection here any more: it was removed, or
// another process owns it. What is known of its tokens besides their record is forgotten.
func (s *Session) Forget() { s.tokens.forget(s.connection) }

// TokenRefreshedAt returns when the connection's access token was refreshed. It returns false if no
// good token is known without reading the store.
func (s *Session) TokenRefreshedAt() (time.Time, bool) { return s.tokens.refreshedAt(s.connection) }

// RenewToken refreshes the connection's token although it is not due, so that it does not expire.
func (s *Session) RenewToken(ctx context.Context) error { return s.tokens.Renew(ctx, s.connection) }

// Unsubscribe ends a subscription; see Client.Unsubscribe.
func (s *Session) Unsubscribe(ctx context.Context, subscriptionID string) error {
	_, err := with(ctx, s, func(token relay.Secret) (struct{}, error) {
		return struct{}{}, s.client.Unsubscribe(ctx, token, s.level, subscriptionID)
	})
	return err
}

// Poll takes the waiting notifications; see Client.Poll for the caller's duties. announce is called
// at most once, even if the call is repeated after a 401. The call is not repeated if it could not
// be sent within the client's timeout after the announcement, so that everything has ended within
// Client.PollBound.
func (s *Session) Poll(
	ctx context.Context, subscriptionID string, announce func(context.Context) error,
) (Page, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var patience *time.Timer // set once announced
	once := func(ctx context.Context) error {
		if patience != nil {
			return nil
		}
		if announce != nil {
			if err := announce(ctx); err != nil {
				return err
			}
		}
		// This ends a wait for a token or the budget, never a call under way.
		patience = time.AfterFunc(s.client.timeout, func() { cancel(errNotRepeated) })
		return nil
	}
	defer func() {
		if patience != nil {
			patience.Stop()
		}
	}()
	return with(ctx, s, func(token relay.Secret) (Page, error) {
		return s.client.Poll(ctx, token, s.level, subscriptionID, once)
	})
}

// errNotRepeated ends the wait for repeating a poll after a 401. The 401 has read nothing, and the
// next poll begins again.
var errNotRepeated = errors.New("the poll was answered 401, and there was no turn to make it once more in time")

// Order reads one order; see Client.Order. begin is called for each of two calls.
func (s *Session) Order(ctx context.Context, id string, begin func() (context.Context, error)) (Order, error) {
	return with(ctx, s, func(token relay.Secret) (Order, error) { return s.client.Order(ctx, token, id, begin) })
}

// AssessmentID looks up an assessment; see Client.AssessmentID.
func (s *Session) AssessmentID(ctx context.Context, originator, number string) (string, error) {
	return with(ctx, s, func(token relay.Secret) (string, error) {
		return s.client.AssessmentID(ctx, token, originator, number)
	})
}

// with makes a call with an access token, at most twice.
func with[T any](ctx context.Context, s *Session, call func(relay.Secret) (T, error)) (T, error) {
	var none T
	token, err := s.tokens.Access(ctx, s.connection)
	if err != nil {
		return none, err
	}
	v, err := call(token)
	refused, ok := errors.AsType[*Error](err)
	if !ok || refused.Outcome != Unauthorised || refused.Operation == OpToken {
		return v, err
	}
	s.tokens.Invalidate(s.connection, token)
	if token, err = s.tokens.Access(ctx, s.connection); err != nil {
		return v, err
	}
	return call(token)
}
