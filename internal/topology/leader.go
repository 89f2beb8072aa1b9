package topology

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// leaderGet answers the last value of a key of relay_owners as the stream's leader has it; nil if it has none, or there is no such bucket.
func (t Topology) leaderGet(ctx context.Context, js jetstream.JetStream, key string) ([]byte, uint64, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq     uint64 `json:"seq"`
			Headers []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	err := t.ask(ctx, js, "STREAM.MSG.GET.KV_"+t.Bucket(Owners), map[string]string{"last_by_subj": t.ownersSubject(key)}, &answer)
	if err != nil {
		return nil, 0, err
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound || e.ErrorCode == jetstream.JSErrCodeStreamNotFound {
			return nil, 0, nil
		}
		return nil, 0, e
	}
	if len(answer.Message.Headers) > 0 && len(answer.Message.Data) == 0 { // the marker of a removed or expired key
		return nil, answer.Message.Seq, nil
	}
	return answer.Message.Data, answer.Message.Seq, nil
}

// ask sends a request of JetStream's API that nats.go does not offer, or not from the leader.
func (t Topology) ask(ctx context.Context, js jetstream.JetStream, what string, request, answer any) error {
	raw, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode a request for %s: %w", what, err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := js.Conn().RequestWithContext(ctx, apiPrefix(js)+what, raw)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", what, err)
	}
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return fmt.Errorf("read the answer to %s: %w", what, err)
	}
	return nil
}

// askTimeout bounds one question to the server.
const askTimeout = 5 * time.Second

func apiPrefix(js jetstream.JetStream) string {
	prefix := js.Options().APIPrefix
	if prefix == "" {
		return jetstream.DefaultAPIPrefix
	}
	if prefix[len(prefix)-1] != '.' {
		prefix += "."
	}
	return prefix
}
