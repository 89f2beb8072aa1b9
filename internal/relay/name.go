package relay

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/fnv"
)

// Shards is the number of fixed slices that connections and callbacks are divided into. It can never change without moving
// data: shard numbers stand in watermarks and leases.
const Shards = 64

// NoSite stands for the site in subjects of operational events that are about no single site.
const NoSite = "_"

// CheckName reports whether name can be a site, a connection, a client or a callback: [a-z0-9][a-z0-9-]{0,62}, so that it is
// a NATS subject token, a bucket key and a URL segment without escaping.
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

// ShardOf answers the shard (0 to 63) of a connection's or a callback's id.
func ShardOf(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	// FNV's low bits of short ids are not well mixed; fold the high half in.
	s := h.Sum32()
	return int((s ^ s>>16) % Shards)
}

// NewID answers 16 random bytes in hex: generations, poll ids, replica nonces.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
