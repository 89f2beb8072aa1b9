package poller_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/poller"
	"github.com/audatex-relay/relay/internal/sandbox"
	"github.com/audatex-relay/relay/internal/store"
)

// A poll that is under way while its connection is deleted does not write the connection's document again.
func TestAPollUnderWayDoesNotBringADeletedConnectionBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Config{})
	r.grace = time.Minute
	polled, goOn := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() {
		close(polled)
		<-goOn
	})
	r.gate.Store(&store.Gate{Before: func(w store.Write) error {
		if strings.HasPrefix(w.Subject, "relay.inbox.") {
			hold()
		}
		return nil
	}})
	r.connect("a")
	r.start()
	eventually(t, "the subscription", r.subscribed)
	r.order()
	<-polled
	if err := r.store.Connections.Delete(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Polls.Delete(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	eventually(t, "nobody polls it", func() bool {
		return errors.Is(r.poller.PollNow(t.Context(), "a"), poller.ErrNotOwned)
	})
	r.halt()
	if doc, _, err := r.store.Polls.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its document is there again: %+v, %v", doc, err)
	}
}
