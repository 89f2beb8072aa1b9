package store

import (
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// RequestTTL is how long a request with an Idempotency-Key is remembered after the last thing that
// happened to it.
const RequestTTL = 24 * time.Hour

// IdempotentRequest is a request that may be repeated and must then have the same result.
type IdempotentRequest struct {
	Caller string `json:"caller"` // whose it is
	// RunningUntil is until when the process that runs the request is left alone. The zero time
	// means that none does.
	RunningUntil   time.Time `json:"runningUntil"`
	RequestSecrets `json:"-"`
}

// RequestSecrets is what is encrypted of a request. The response may hold a secret that is shown
// once. The seed of the request's secrets is as good as the secrets. A fingerprint of a short body
// reveals the body.
type RequestSecrets struct {
	// Fingerprint is what the request was. Seed is what the process that runs it makes ids and
	// secrets from, again if need be.
	Fingerprint []byte        `json:"fingerprint"`
	Seed        []byte        `json:"seed"`
	Answer      *StoredAnswer `json:"answer,omitempty"` // nil: it is not known to have succeeded
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
	IdempotentRequest
	Sealed []byte `json:"sealed"`
}

type requestCodec struct{ sealer *Sealer }

func (c requestCodec) encode(key string, r IdempotentRequest) ([]byte, error) {
	sealed, err := c.sealer.seal("request "+key, r.RequestSecrets)
	if err != nil {
		return nil, err
	}
	return relay.Encode(storedRequest{r, sealed})
}

func (c requestCodec) decode(key string, b []byte) (IdempotentRequest, error) {
	var stored storedRequest
	err := json.Unmarshal(b, &stored)
	if err == nil {
		err = c.sealer.open("request "+key, stored.Sealed, &stored.RequestSecrets)
	}
	return stored.IdempotentRequest, err
}

type requestSizeCodec struct{ jsonCodec[RequestSize] }

func (requestSizeCodec) decode(_ string, b []byte) (RequestSize, error) {
	var stored storedRequest
	err := json.Unmarshal(b, &stored)
	return RequestSize{stored.Caller, len(stored.Sealed)}, err
}
