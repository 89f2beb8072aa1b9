package httpapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// aside stores unresolved notifications and waits until lists have them.
func (f *fixture) aside(docs ...relay.Unresolved) {
	f.t.Helper()
	for _, u := range docs {
		u.ReceivedAt, u.UnresolvedAt = time.Now(), time.Now()
		if _, err := f.store.Unresolved.Create(f.t.Context(), u.ID, u); err != nil {
			f.t.Fatal(err)
		}
	}
	eventually(f.t, func() bool {
		return !slices.ContainsFunc(docs, func(u relay.Unresolved) bool {
			_, there := f.api.asides.Get(u.ID)
			return !there
		})
	})
}

// Lists of unresolved notifications are chosen by reason, sites and connection, over pages of any
// size.
func TestUnresolvedByReasonSiteAndConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var all []relay.Unresolved
	for i := range 24 {
		u := relay.Unresolved{
			Connection: []string{"leeds", "group"}[i%2], Site: []string{"leeds", "york", ""}[i%3],
			Reason:     []string{"site-unknown", "forbidden", "too-large", "not-found"}[i%4],
			InboxEntry: uint64(i), Raw: []byte(fmt.Sprint(i)),
		}
		u.ID = fmt.Sprintf("%s.%d-0", u.Connection, i)
		all = append(all, u)
	}
	f.aside(all...)
	for query, fits := range map[string]func(relay.Unresolved) bool{
		"":                      func(relay.Unresolved) bool { return true },
		"reason=forbidden":      func(u relay.Unresolved) bool { return u.Reason == "forbidden" },
		"reason=never-heard-of": func(relay.Unresolved) bool { return false },
		"sites=york":            func(u relay.Unresolved) bool { return u.Site == "york" },
		"sites=york,leeds&reason=too-large": func(u relay.Unresolved) bool {
			return u.Site != "" && u.Reason == "too-large"
		},
		"connection=group&sites=leeds": func(u relay.Unresolved) bool {
			return u.Connection == "group" && u.Site == "leeds"
		},
		"connection=nobody": func(relay.Unresolved) bool { return false },
	} {
		var want []string
		for _, u := range all {
			if fits(u) {
				want = append(want, u.ID)
			}
		}
		slices.Sort(want)
		for _, limit := range []int{1, 5, 500} {
			var got []string
			for after := ""; ; {
				var list UnresolvedList
				f.admin().get(fmt.Sprintf("/v1/unresolved?limit=%d&%s%s", limit, query, after)).want(200).into(&list)
				for _, u := range list.Items {
					got = append(got, u.Id)
				}
				if list.Next == "" {
					break
				}
				after = "&after=" + list.Next
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q by %d: %v, want %v", query, limit, got, want)
			}
		}
	}
	f.admin().get("/v1/unresolved?reason=No%20Reason").want(400).problem("invalid-parameter", "reason")
}

// A page of unresolved notifications ends early when their bytes are many, and goes on behind.
func TestAPageOfUnresolvedNotificationsIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.api.unresolvedBytes = 100 << 10
	var all []relay.Unresolved
	for i := range 5 {
		all = append(all, relay.Unresolved{ID: fmt.Sprintf("leeds.%d-0", i), Connection: "leeds", Reason: "too-large",
			Raw: []byte(strings.Repeat("x", 30<<10))})
	}
	f.aside(all...)
	seen := 0
	for after := ""; ; {
		var list UnresolvedList
		f.admin().get("/v1/unresolved?" + after).want(200).into(&list)
		if seen += len(list.Items); len(list.Items) != 2 && len(list.Items) != 1 {
			t.Fatalf("%d on one page", len(list.Items))
		}
		if list.Next == "" {
			break
		}
		after = "after=" + list.Next
	}
	if seen != len(all) {
		t.Errorf("saw %d of %d", seen, len(all))
	}
}

// Many are retried in the order in which they came, so many a request, and what stays does not keep
// the rest from its turn.
func TestRetryOfManyUnresolvedNotifications(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var all []relay.Unresolved
	results := map[string]retried{}
	refused := fmt.Errorf("retry: %w",
		&audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Forbidden, Message: "words"})
	for i := range 230 {
		u := relay.Unresolved{Connection: []string{"b", "a"}[i%2], Site: "leeds", Reason: "forbidden",
			InboxEntry: uint64(1000 + i)}
		u.ID = fmt.Sprintf("%s.%d-0", u.Connection, 1000+i)
		all = append(all, u)
		results[u.ID] = retried{relay.RetryResolved, nil}
		if i < 3 {
			results[u.ID] = retried{relay.RetryRefused, refused}
		}
	}
	others := relay.Unresolved{ID: "a.1-0", Connection: "a", Site: "york", Reason: "not-found", InboxEntry: 1}
	f.aside(append(slices.Clone(all), others)...)
	f.parts.set(func() { f.parts.retries = results })
	ask := map[string]any{"reason": "forbidden", "sites": []string{"leeds"}}
	var got UnresolvedRetried
	matched := 230
	for _, want := range []UnresolvedRetried{{Taken: 100, Resolved: 97}, {Taken: 100, Resolved: 100},
		{Taken: 30, Resolved: 30}} {
		f.admin().post("/v1/unresolved/retry", ask).want(200).into(&got)
		if got.Matched != matched || got.Taken != want.Taken || got.Resolved != want.Resolved ||
			len(got.Failed) != want.Taken-want.Resolved {
			t.Errorf("got %+v, want %+v of %d", got, want, matched)
		}
		if matched -= got.Taken; matched > 0 {
			ask["after"] = got.Next
		}
		for i, failed := range got.Failed {
			if failed.Id != all[i].ID || failed.Problem != "still-unresolved" ||
				!strings.Contains(failed.Detail, "words") {
				t.Errorf("failed: %+v", failed)
			}
		}
	}
	if got.Next != "" || len(f.parts.retried) != 230 {
		t.Errorf("next %q after %d", got.Next, len(f.parts.retried))
	}
	for i, id := range f.parts.retried {
		if id != all[i].ID {
			t.Fatalf("%s was retried as number %d, want %s", id, i, all[i].ID)
		}
	}
	// If the vendor or the store cannot be asked, the request ends and returns where to continue.
	for problem, cause := range map[string]error{
		"not-available": &audatex.Error{Operation: audatex.OpOrder,
			Outcome: audatex.Throttled, RetryAfter: time.Minute},
		"store-unavailable": store.ErrUnavailable,
	} {
		for id := range results {
			results[id] = retried{relay.RetryUnavailable, cause}
		}
		f.parts.set(func() { f.parts.retries = results })
		f.admin().post("/v1/unresolved/retry", map[string]any{"connection": "b"}).want(200).into(&got)
		if got.Taken != retryChunk || got.Resolved != 0 || len(got.Failed) != retryChunk ||
			got.Failed[0].Problem != problem || got.Next == "" {
			t.Errorf("%s: %+v", problem, got)
		}
	}
	// One connection without consent does not.
	for id := range results {
		results[id] = retried{relay.RetryResolved, nil}
		if strings.HasPrefix(id, "a.") {
			results[id] = retried{relay.RetryUnavailable, relay.ErrNoToken}
		}
	}
	f.admin().post("/v1/unresolved/retry", map[string]any{"limit": 20, "reason": "forbidden"}).want(200).into(&got)
	if got.Taken != 20 || got.Resolved != 10 || len(got.Failed) != 10 || got.Failed[0].Problem != "consent-required" {
		t.Errorf("without consent: %+v", got)
	}
	f.admin().post("/v1/unresolved/retry", map[string]any{"connection": "nobody"}).want(200).into(&got)
	if got.Matched+got.Taken != 0 || got.Failed == nil || got.Next != "" {
		t.Errorf("nothing fits: %+v", got)
	}
	f.admin().post("/v1/unresolved/retry", nil).want(200).into(&got)
	if got.Matched != 231 {
		t.Errorf("without a filter: %+v", got)
	}
	f.admin().post("/v1/unresolved/retry", map[string]any{"after": token('k', "x")}).want(422).problem("invalid-body",
		"/after")
	f.admin().post("/v1/unresolved/retry", map[string]any{"site": "leeds"}).want(422).problem("invalid-body", "/site")
	f.client("acme", relay.RoleWrite, "*").post("/v1/unresolved/retry", nil).want(404)
	if err := errors.Unwrap(refused); err == nil ||
		!strings.Contains(f.log.String(), `"admin":"admin","reason":"forbidden"`) {
		t.Error("the log does not say who retried what")
	}
}
