package topology_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/relay"
)

// A subject of the inbox and the connection it belongs to lead to one another, and nothing else is taken for one.
func TestInboxSubjects(t *testing.T) {
	t.Parallel()
	if got := table.InboxSubject("leeds"); got != "relay.inbox.56.leeds" {
		t.Errorf("the subject of leeds is %s", got)
	}
	shards := map[int]bool{}
	for i := 0; len(shards) < relay.Shards; i++ {
		id := fmt.Sprintf("c%d", i)
		shard := relay.ShardOf(id)
		shards[shard] = true
		subject := table.InboxSubject(id)
		if got, ok := table.ParseInboxSubject(subject); !ok || got != id {
			t.Errorf("%s is taken for %q, %v", subject, got, ok)
		}
		if all, ok := strings.CutSuffix(table.ShardPages(shard), "*"); !ok || subject != all+id {
			t.Errorf("%s does not match %s", subject, table.ShardPages(shard))
		}
		other := fmt.Sprintf("relay.inbox.%d.%s", (shard+1)%relay.Shards, id)
		if got, ok := table.ParseInboxSubject(other); ok || got != "" {
			t.Errorf("%s, in another shard, is taken for %q", other, got)
		}
	}
	for _, subject := range []string{
		"", "leeds", "relay.inbox", "relay.inbox.leeds", "relay.inbox.56", "relay.inbox.56.", "relay.inbox..leeds",
		"relay.inbox.056.leeds", "relay.inbox.+56.leeds", "relay.inbox.x.leeds", "relay.inbox.56.x.leeds",
		"relay.inbox.56.leeds.x", "other.inbox.56.leeds", "relay.attempts.56.leeds", "relay.inbox.25.",
		"relay.inbox.49.*", table.ShardPages(56), table.AllPages(),
	} {
		if got, ok := table.ParseInboxSubject(subject); ok || got != "" {
			t.Errorf("%q is taken for %q", subject, got)
		}
	}
}
