package store

import (
	"encoding/json"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/topology"
)

// sealedBucket is a bucket whose documents hold something sealed. Code that seals something in
// another bucket must add it to sealedBuckets.
type sealedBucket struct {
	name topology.BucketName
	// holders returns the parts of a document that have a field `sealed`, and the place that each is bound to.
	holders func(key string, doc map[string]json.RawMessage) ([]sealedHolder, error)
	// life is how long the rewritten document stays; nil: as all of its bucket.
	life func(doc map[string]json.RawMessage) time.Duration
}

type sealedHolder struct {
	place string
	part  map[string]json.RawMessage
}

var sealedBuckets = []sealedBucket{
	{name: topology.Tokens, holders: whole("tokens ")},
	{name: topology.Callbacks, holders: whole("callback ")},
	{name: topology.Requests, holders: whole("request ")},
	{name: topology.Consents, holders: attemptsOf, life: func(doc map[string]json.RawMessage) time.Duration {
		var expires time.Time
		_ = json.Unmarshal(doc["expiresAt"], &expires) // one that cannot be read goes soon
		return relay.ConsentLinkLeft(expires, time.Now())
	}},
}

// whole is for documents that are one sealed thing.
func whole(place string) func(string, map[string]json.RawMessage) ([]sealedHolder, error) {
	return func(key string, doc map[string]json.RawMessage) ([]sealedHolder, error) {
		return []sealedHolder{{place + key, doc}}, nil
	}
}

// attemptsOf returns the attempts of a consent link. Code that rewrites one must put it back into the document.
func attemptsOf(key string, doc map[string]json.RawMessage) ([]sealedHolder, error) {
	if len(doc["attempts"]) == 0 {
		return nil, nil
	}
	var attempts []map[string]json.RawMessage
	if err := json.Unmarshal(doc["attempts"], &attempts); err != nil {
		return nil, err
	}
	holders := make([]sealedHolder, len(attempts))
	for i, a := range attempts {
		var id string
		if err := json.Unmarshal(a["id"], &id); err != nil {
			return nil, err
		}
		holders[i] = sealedHolder{"consent " + key + " " + id, a}
	}
	return holders, nil
}
