package audatex

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Session makes the calls of one connection: with its tokens, at its level. A call that is answered 401 is made once
// more with a refreshed token; what is answered 401 then is Unauthorised. A 401 has read nothing, so a poll may be
// repeated as well. It is safe for concurrent use and costs little to make.
type Session struct {
	client     *Client
	tokens     *Tokens
	connection string
	level      relay.Level
}

// NewSession binds a client to a connection. No level is a site's.
func NewSession(client *Client, tokens *Tokens, connection string, level relay.Level) *Session {
	if level == "" {
		level = relay.LevelSite
	}
	return &Session{client: client.inTurn(turn{connection: connection, tokens: tokens}), tokens: tokens, connection: connection, level: level}
}

// At returns the same session with calls that all wait for the budget at one priority, in place of each at its own.
func (s *Session) At(p Priority) *Session {
	at := *s
	at.client = s.client.inTurn(turn{connection: s.connection, priority: &p, tokens: s.tokens})
	return &at
}

// Whoami tells who the connection's token is.
func (s *Session) Whoami(ctx context.Context) (who string, err error) {
	err = s.with(ctx, func(token relay.Secret) error {
		who, err = s.client.Whoami(ctx, token)
		return err
	})
	return who, err
}

// Topics lists what can be subscribed to.
func (s *Session) Topics(ctx context.Context) (topics []TopicInfo, err error) {
	err = s.with(ctx, func(token relay.Secret) error {
		topics, err = s.client.Topics(ctx, token)
		return err
	})
	return topics, err
}

// Subscriptions lists the connection's subscriptions.
func (s *Session) Subscriptions(ctx context.Context) (subs []Subscription, err error) {
	err = s.with(ctx, func(token relay.Secret) error {
		subs, err = s.client.Subscriptions(ctx, token, s.level)
		return err
	})
	return subs, err
}

// Subscribe subscribes to topic; see Client.Subscribe.
func (s *Session) Subscribe(ctx context.Context, topic string) (id string, err error) {
	err = s.with(ctx, func(token relay.Secret) error {
		id, err = s.client.Subscribe(ctx, token, s.level, topic)
		return err
	})
	return id, err
}

// EnsureSubscription subscribes to topic, or finds the subscription that is there already: then existed is true, and somebody
// else may be reading the same queue. A subscription that was made just now but whose id cannot be read is found in the same way. Conflict
// remains if the vendor says that the topic is subscribed but does not list it; *TopicMissingError says which topics there are.
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
	var untold []Subscription // of which topic, the list does not say
	for _, sub := range subs {
		_, ok := canonicalUUID(sub.SubscriptionID)
		switch code := strings.TrimSpace(sub.Topic.TopicCode); {
		case ok && strings.EqualFold(code, topic):
			return sub, !unread, nil
		case ok && code == "":
			untold = append(untold, sub)
		}
	}
	if len(untold) == 1 { // there must be one, and it is no other
		return untold[0], !unread, nil
	}
	return Subscription{}, false, err
}

// TokenReplaced says that somebody else may have written the connection's tokens: they are read again before the next call.
func (s *Session) TokenReplaced() { s.tokens.drop(s.connection) }

// RenewToken refreshes the connection's token although nothing needs it, so that it does not lapse.
func (s *Session) RenewToken(ctx context.Context) error { return s.tokens.Renew(ctx, s.connection) }

// Unsubscribe ends a subscription; see Client.Unsubscribe.
func (s *Session) Unsubscribe(ctx context.Context, subscriptionID string) error {
	return s.with(ctx, func(token relay.Secret) error {
		return s.client.Unsubscribe(ctx, token, s.level, subscriptionID)
	})
}

// Poll takes the notifications that wait; see Client.Poll for what its caller owes. announce is called at most once, also
// when the call is repeated after a 401. The repetition is given up when it could not be sent within the client's timeout
// after the announcement, so that everything has ended within Client.PollBound.
func (s *Session) Poll(ctx context.Context, subscriptionID string, announce func(context.Context) error) (page Page, err error) {
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
		// It ends a wait for a token or the budget, never a call under way.
		patience = time.AfterFunc(s.client.timeout, func() { cancel(errNotRepeated) })
		return nil
	}
	defer func() {
		if patience != nil {
			patience.Stop()
		}
	}()
	err = s.with(ctx, func(token relay.Secret) error {
		page, err = s.client.Poll(ctx, token, s.level, subscriptionID, once)
		return err
	})
	return page, err
}

// errNotRepeated ends the wait for the repetition of a poll that was answered 401. That has read nothing, and the next poll is made anew.
var errNotRepeated = errors.New("the poll was answered 401, and there was no turn to make it once more in time")

// Order reads one order; see Client.Order. begin is called for each of two calls.
func (s *Session) Order(ctx context.Context, id string, begin func() (context.Context, error)) (order Order, err error) {
	err = s.with(ctx, func(token relay.Secret) error {
		order, err = s.client.Order(ctx, token, id, begin)
		return err
	})
	return order, err
}

// AssessmentID looks up an assessment; see Client.AssessmentID.
func (s *Session) AssessmentID(ctx context.Context, originator, number string) (id string, err error) {
	err = s.with(ctx, func(token relay.Secret) error {
		id, err = s.client.AssessmentID(ctx, token, originator, number)
		return err
	})
	return id, err
}

// with makes a call with an access token, at most twice.
func (s *Session) with(ctx context.Context, call func(relay.Secret) error) error {
	token, err := s.tokens.Access(ctx, s.connection)
	if err != nil {
		return err
	}
	err = call(token)
	refused, ok := errors.AsType[*Error](err)
	if !ok || refused.Outcome != Unauthorised || refused.Operation == OpToken {
		return err
	}
	s.tokens.Invalidate(s.connection, token)
	if token, err = s.tokens.Access(ctx, s.connection); err != nil {
		return err
	}
	return call(token)
}
