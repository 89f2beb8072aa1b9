package natstest

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// requestsMost is for how many requests Requests has room.
const requestsMost = 1 << 20

// Requests counts what a server is asked by JetStream's API from now on. The function returns how many requests there
// were whose subject begins with a prefix: "CONSUMER.CREATE.KV_relay_cursors.", or "" for all of them. One that is
// answered before it is called is among them.
func Requests(t testing.TB, nc *nats.Conn) (count func(prefix string) int) {
	t.Helper()
	const api = "$JS.API."
	sub, err := nc.SubscribeSync(api + ">")
	if err == nil {
		err = sub.SetPendingLimits(requestsMost, -1)
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	var subjects []string
	return func(prefix string) (n int) {
		t.Helper()
		err := nc.Flush()
		for waiting, _, failed := sub.Pending(); ; waiting-- {
			if err == nil {
				err = failed
			}
			if err != nil {
				t.Fatal(err)
			}
			if waiting == 0 {
				break
			}
			var m *nats.Msg
			if m, err = sub.NextMsg(time.Second); err == nil {
				subjects = append(subjects, strings.TrimPrefix(m.Subject, api))
			}
		}
		for _, s := range subjects {
			if strings.HasPrefix(s, prefix) {
				n++
			}
		}
		return n
	}
}
