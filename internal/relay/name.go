package relay

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/fnv"
)

// Shards is the number of shards that connections and callbacks are divided into. It can never
// change without moving data: watermarks and leases contain shard numbers.
const Shards = 64

// NoSite replaces the site in the subjects of operational events that are not about a single site.
const NoSite = "_"

// CheckName returns an error unless name can be the name of a site, a connection, a client or a
// callback: [a-z0-9][a-z0-9-]{0,62}, so that it can be a NATS subject token, a bucket key and a URL
// segment without escaping.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("must not be empty")
	}
	if len(name) > 63 {
		return fmt.Errorf("has %d characters, at most 63 are allowed", len(name))
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 {
			continue
		}
		return fmt.Errorf("%q must be lower-case letters, digits and hyphens, starting with a letter or digit", name)
	}
	return nil
}

// ShardOf returns the shard (0 to 63) of a connection's or a callback's id.
func ShardOf(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	// For short ids FNV's low bits are not well mixed; fold in the high half.
	s := h.Sum32()
	return int((s ^ s>>16) % Shards)
}

// NewID returns 16 random bytes in hex. It makes generations, poll ids and the nonces of replicas.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
