package topology

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/jsapi"
)

// askTimeout bounds one request to the server.
const askTimeout = 5 * time.Second

// leaderGet returns the last value of a key of relay_owners as the stream's leader has it; nil if
// it has none, or there is no such bucket.
func (t Topology) leaderGet(ctx context.Context, js jetstream.JetStream, key string) ([]byte, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := jsapi.Get(ctx, js, "KV_"+t.Bucket(Owners), jsapi.Selection{Last: t.ownersSubject(key)})
	switch jsapi.Code(err) {
	case jetstream.JSErrCodeMessageNotFound, jetstream.JSErrCodeStreamNotFound:
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if len(m.Header) > 0 && len(m.Data) == 0 { // the marker of a removed or expired key
		return nil, m.Sequence, nil
	}
	return m.Data, m.Sequence, nil
}

// info reads a stream's state, with the subjects of a filter, as its leader has it; false if there
// is no such stream.
func (t Topology) info(ctx context.Context, js jetstream.JetStream, stream, filter string) (info jetstream.StreamInfo, there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = jsapi.Call(ctx, js, "STREAM.INFO."+stream, map[string]string{"subjects_filter": filter}, &info)
	if jsapi.Code(err) == jetstream.JSErrCodeStreamNotFound {
		return info, false, nil
	}
	return info, err == nil, err
}
