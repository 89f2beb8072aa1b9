package cursor_test

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
)

// One order fails, another does not: the position passes the one that is being retried.
func Example() {
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	c := cursor.New(cursor.Policy{Concurrency: 2, Schedule: []time.Duration{5 * time.Second}})
	c.Offer(cursor.Entry{Seq: 3, Order: "a"})
	c.Offer(cursor.Entry{Seq: 4, Order: "a"})
	c.Offer(cursor.Entry{Seq: 7, Order: "b"})

	a, _ := c.Take(now, 1)
	b, _ := c.Take(now, 1)
	_, more := c.Take(now, 1)
	fmt.Println(a.Order, a.Seqs, b.Order, b.Seqs, more)

	r := c.Fail(a, now, cursor.Failure{Reason: "503"})
	fmt.Println(r.Outcome, r.Next.Sub(now))
	c.Succeed(b, now)

	ch := c.Changes()
	for _, l := range ch.Lanes {
		s, _ := json.Marshal(l)
		fmt.Println(string(s))
	}
	s, _ := json.Marshal(ch.Document)
	fmt.Println(string(s))
	c.Stored(ch)

	again, err := cursor.Load(cursor.Policy{}, *ch.Document, ch.Lanes, now.Add(5*time.Second))
	fmt.Println(err, again.ReadFrom())
	retry, _ := again.Take(now.Add(5*time.Second), 1)
	fmt.Println(retry.Order, retry.Seqs, retry.Attempt, retry.Reason)
	// Output:
	// a [3] b [7] false
	// retrying 5s
	// {"v":1,"order":"a","entries":[3,4],"attempts":1,"failingSince":"2026-01-15T09:00:00Z","reason":"503","reasonSince":"2026-01-15T09:00:00Z","next":"2026-01-15T09:00:05Z","waitMillis":5000}
	// {"v":1,"position":7}
	// <nil> 8
	// a [3] 2 503
}
