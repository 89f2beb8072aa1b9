// Package jsapi sends those requests of JetStream's API that the client library has no function for, or sends
// to any server although only the leader's response counts. It honours the prefix with which the caller's
// JetStream was made, and returns what the server refuses as the client library does, as a
// *jetstream.APIError. Begin reading at Call.
package jsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Call sends a request and decodes the response. While there is no leader, neither a response nor an error comes: ctx
// must have a deadline.
func Call(ctx context.Context, js jetstream.JetStream, what string, request, answer any) error {
	fail := func(err error) error { return fmt.Errorf("ask JetStream for %s: %w", what, err) }
	raw, err := json.Marshal(request)
	if err != nil {
		return fail(err)
	}
	m, err := js.Conn().RequestWithContext(ctx, prefix(js)+what, raw)
	if err != nil {
		return fail(err)
	}
	if bytes.Contains(m.Data, []byte(`"error"`)) { // a response may be long, and need not be read twice
		var refused struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &refused); err != nil {
			return fail(err)
		}
		if refused.Error != nil {
			return fail(refused.Error)
		}
	}
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return fail(err)
	}
	return nil
}

// Code returns the error code of what JetStream's API has refused, 0 if err is none of its errors.
func Code(err error) jetstream.ErrorCode {
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) {
		return api.ErrorCode
	}
	return 0
}

// Selection is which message Get reads: the last one of a subject, the first of a filter from a sequence or
// a time on, or the one at a sequence.
type Selection struct {
	Seq   uint64     `json:"seq,omitempty"`
	Next  string     `json:"next_by_subj,omitempty"` // the first message of a filter from Seq, or from Since
	Last  string     `json:"last_by_subj,omitempty"`
	Since *time.Time `json:"start_time,omitempty"`
}

// Get reads one message as the stream's leader has it. If there is none, Code of its error is JSErrCodeMessageNotFound.
func Get(ctx context.Context, js jetstream.JetStream, stream string, which Selection) (jetstream.RawStreamMsg, error) {
	var answer struct {
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Headers []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := Call(ctx, js, "STREAM.MSG.GET."+stream, which, &answer); err != nil {
		return jetstream.RawStreamMsg{}, err
	}
	stored := answer.Message
	if stored == nil {
		return jetstream.RawStreamMsg{}, fmt.Errorf("read a message of %s: the answer has none", stream)
	}
	m := jetstream.RawStreamMsg{Subject: stored.Subject, Sequence: stored.Seq, Data: stored.Data, Time: stored.Time}
	if len(stored.Headers) > 0 {
		var err error
		if m.Header, err = nats.DecodeHeadersMsg(stored.Headers); err != nil {
			return jetstream.RawStreamMsg{}, fmt.Errorf("read message %d of %s: %w", stored.Seq, stream, err)
		}
	}
	return m, nil
}

// prefix returns what the subjects of the API begin with.
func prefix(js jetstream.JetStream) string {
	if p := js.Options().APIPrefix; p != "" {
		return strings.TrimSuffix(p, ".") + "."
	}
	return jetstream.DefaultAPIPrefix
}
