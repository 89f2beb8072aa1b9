package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// RequestTTL is how long a request with an Idempotency-Key is remembered after the last thing that
// happened to it.
const RequestTTL = 24 * time.Hour

// IdempotentRequest is a request that may be repeated and must then have the same result.
// Everything but its caller is sealed. The response may hold a secret that is shown once. The seed
// of the request's secrets is as good as the secrets. A fingerprint of a short body reveals the
// body.
type IdempotentRequest struct {
	Caller string // whose it is
	// RunningUntil is until when the process that runs the request is left alone. The zero time
	// means that none does.
	RunningUntil time.Time
	// Fingerprint is what the request was. Seed is what the process that runs it makes ids and
	// secrets from, again if need be.
	Fingerprint, Seed []byte
	Answer            *StoredAnswer // nil: it is not known to have succeeded
}

// StoredAnswer is the response to a request.
type StoredAnswer struct {
	Status      int    `json:"status"`
	ETag        string `json:"etag,omitempty"`
	Location    string `json:"location,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	Body        []byte `json:"body,omitempty"`
}

// RequestSize is what is counted of an IdempotentRequest, without decrypting anything.
type RequestSize struct {
	Caller string
	Bytes  int // of what lies sealed
}

type storedRequest struct {
	Caller       string    `json:"caller"`
	RunningUntil time.Time `json:"runningUntil"`
	Sealed       []byte    `json:"sealed"`
}

type sealedRequest struct {
	Fingerprint []byte        `json:"fingerprint"`
	Seed        []byte        `json:"seed"`
	Answer      *StoredAnswer `json:"answer,omitempty"`
}

type requestCodec struct{ sealer *Sealer }

func (c requestCodec) encode(key string, r IdempotentRequest) ([]byte, error) {
	sealed, err := c.sealer.seal("request "+key, sealedRequest{r.Fingerprint, r.Seed, r.Answer})
	if err != nil {
		return nil, err
	}
	return relay.Encode(storedRequest{r.Caller, r.RunningUntil, sealed})
}

func (c requestCodec) decode(key string, b []byte) (IdempotentRequest, error) {
	var stored storedRequest
	if err := json.Unmarshal(b, &stored); err != nil {
		return IdempotentRequest{}, err
	}
	var secret sealedRequest
	err := c.sealer.open("request "+key, stored.Sealed, &secret)
	return IdempotentRequest{stored.Caller, stored.RunningUntil, secret.Fingerprint, secret.Seed, secret.Answer}, err
}

type requestSizeCodec struct{ jsonCodec[RequestSize] }

func (requestSizeCodec) decode(_ string, b []byte) (RequestSize, error) {
	var stored storedRequest
	err := json.Unmarshal(b, &stored)
	return RequestSize{stored.Caller, len(stored.Sealed)}, err
}

// Requests holds requests with an Idempotency-Key. They go by themselves.
type Requests struct {
	bucket *Bucket[IdempotentRequest]
	// Sizes are the same documents, for counting.
	Sizes *Bucket[RequestSize]
}

// Put stores a request over a revision (0: there is none yet); ErrConflict if it is at another one.
func (q *Requests) Put(ctx context.Context, key string, r IdempotentRequest, revision uint64) (uint64, error) {
	result := q.bucket.PutAll(ctx, []Put[IdempotentRequest]{{Key: key, Value: r, Revision: revision, TTL: RequestTTL}})[0]
	return result.Seq, result.Err
}

// Find returns a request as the bucket's leader has it; ErrNotFound if there is none.
func (q *Requests) Find(ctx context.Context, key string) (IdempotentRequest, uint64, error) {
	there := q.bucket.Current(ctx, []string{key})[0]
	if there.Err == nil && there.Deleted {
		there.Err = ErrNotFound
	}
	return there.Value, there.Revision, there.Err
}

// Forget removes a request at the revision given.
func (q *Requests) Forget(ctx context.Context, key string, revision uint64) error {
	return q.bucket.Delete(ctx, key, revision)
}
