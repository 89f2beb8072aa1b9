package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/quota"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// notPolledFor is how late a poll may be, as for the alert.
const notPolledFor = 11 * time.Minute

// The limits of an examination.
const (
	together  = 8   // receivers that are reached, or tokens that are read, at once
	mostHosts = 200 // receivers that are reached
)

// connections looks for those that need a consent, or whose polls fail.
func (d *Doctor) connections(ctx context.Context) []Check {
	var bad unreadable
	all, err := d.c.Store.Connections.All(ctx, "", bad.add)
	if err != nil {
		return []Check{Unknown(Connections, "", "they cannot be read: %v", err)}
	}
	polls, err := d.c.Store.Polls.All(ctx, "", bad.add)
	if err != nil {
		return []Check{Unknown(Connections, "", "their polls cannot be read: %v", err)}
	}
	found := bad.found("connections")
	if polls, refreshes := quota.Demand(all, d.c.Interval); polls+refreshes > float64(d.c.Rate) {
		found = append(found, Wrong(Settings, "RELAY_AUDATEX_RATE",
			fmt.Sprintf("polling alone needs %.0f requests a minute, and it allows %d", polls+refreshes, d.c.Rate),
			"agree on a higher rate with the vendor, or raise RELAY_POLL_INTERVAL"))
	}
	last := map[string]relay.Poll{}
	for _, p := range polls {
		last[p.Key] = p.Value
	}
	var mu sync.Mutex
	wrong, late, well := 0, 0, 0
	left := each(ctx, together, all, func(e store.Entry[relay.Connection]) {
		c := e.Value
		token, _, err := d.c.Store.Tokens.Token(ctx, c.ID)
		poll := last[c.ID]
		if poll.Generation != c.Generation {
			poll = relay.Poll{}
		}
		check, is := connection(c, token, err, poll)
		since := waitsSince(c, token, poll, d.c.Interval)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case is:
			wrong++
			found = append(found, check)
		case !c.Paused && time.Since(since) > notPolledFor:
			late++
			found = append(found, Wrong(Connections, c.ID,
				"it should have been polled at "+since.UTC().Format(time.RFC3339),
				"after a start wait for a minute; else look at the vendor, the request budget, and the replica that "+
					"owns it"))
		case !c.Paused:
			well++
		}
	})
	if late > well {
		found = append(found, Wrong(Relay, "polls",
			plural(late, "connection that could be polled is", "connections that could be polled are")+" not polled",
			"after a start wait for a minute; else raise RELAY_AUDATEX_RATE or RELAY_POLL_INTERVAL if the budget is "+
				"used up, "+
				"and restart a replica that alone is late"))
	}
	if left > 0 {
		found = append(found,
			Unknown(Connections, "", "%s not looked at: there was no time", plural(left, "was", "were")))
	}
	return append(found,
		ok(Connections, "", "%d of %d have a consent, and are polled or paused", len(all)-left-wrong-late, len(all)))
}

// waitsSince returns when the next poll of a connection was or is due.
func waitsSince(c relay.Connection, token relay.TokenRecord, poll relay.Poll, interval time.Duration) time.Time {
	if s := c.PollIntervalSeconds; s > 0 {
		interval = time.Duration(s * float64(time.Second))
	}
	since := c.CreatedAt
	for _, at := range []time.Time{poll.PolledAt, token.ConsentAt} {
		if at.After(since) {
			since = at
		}
	}
	return since.Add(interval)
}

// unreadable counts documents that cannot be decoded: the relay works as if they were not there, or as they were
// before.
type unreadable int

func (n *unreadable) add(string, error) { *n++ }

func (n unreadable) found(what string) []Check {
	if n == 0 {
		return nil
	}
	return []Check{Wrong(Storage, what, plural(int(n), "document cannot be read", "documents cannot be read"),
		"look in the log for the names at ERROR; register what they are about again, or restore a backup")}
}

// connection judges one connection.
func connection(c relay.Connection, token relay.TokenRecord, err error, poll relay.Poll) (Check, bool) {
	link := "send its user a link: POST /v1/connections/" + c.ID + "/consent-links"
	switch {
	case c.Paused:
		return Check{}, false
	case errors.Is(err, relay.ErrNoToken), err == nil && token.Generation != c.Generation:
		return Wrong(Connections, c.ID, "nobody has consented yet", link), true
	case err != nil:
		return Unknown(Connections, c.ID, "its token cannot be read: %v", err), true
	case token.ConsentRequiredSince != nil:
		return Wrong(Connections, c.ID, fmt.Sprintf("it needs a consent since %s: %s",
			token.ConsentRequiredSince.UTC().Format(time.RFC3339),
			printable(token.Reason)), link), true
	case token.RefreshToken.Empty():
		return Wrong(Connections, c.ID, "nobody has consented yet", link), true
	case poll.FailingSince != nil && poll.Outcome != nil:
		remedy := "if the vendor's host can be reached, give the correlationId of lastError to the vendor's service " +
			"desk"
		if poll.Outcome.Result == audatex.Forbidden.String() {
			remedy = "if it is the relay's own client that is refused, correct RELAY_AUDATEX_CLIENT_ID or the client " +
				"secret and restart; else " + remedy
		}
		since := poll.FailingSince.UTC().Format(time.RFC3339)
		return Wrong(Connections, c.ID,
			fmt.Sprintf("its polls fail since %s: %s", since, printable(poll.Outcome.Error)), remedy), true
	}
	return Check{}, false
}

// callbacks looks for those that fail or are disabled, and reaches every receiver.
func (d *Doctor) callbacks(ctx context.Context) []Check {
	var bad unreadable
	all, err := d.c.Store.Sealed.All(ctx, "", bad.add)
	if err != nil {
		return []Check{Unknown(Callbacks, "", "they cannot be read: %v", err)}
	}
	found := bad.found("callbacks")
	var ids []string
	hosts := map[string][]string{} // callbacks by where they go
	for _, e := range all {
		cb := e.Value
		switch {
		case cb.Disabled != nil:
			since := cb.Disabled.At.UTC().Format(time.RFC3339)
			found = append(found, Wrong(Callbacks, cb.ID,
				fmt.Sprintf("it is disabled since %s: %s", since, disabled[cb.Disabled.Reason]),
				"talk to its operator, then POST /v1/callbacks/"+cb.ID+"/resume"))
			continue
		case cb.Paused:
			continue
		}
		ids = append(ids, cb.ID)
		goes := func(address, who string) {
			if u, err := url.Parse(address); err == nil && u.Host != "" {
				hosts[u.Scheme+"://"+u.Host] = append(hosts[u.Scheme+"://"+u.Host], who)
			}
		}
		goes(cb.ShownURL, cb.ID)
		switch opened, err := d.c.Store.OpenCallback(cb); {
		case err != nil:
			found = append(found,
				Unknown(Callbacks, cb.ID, "its secrets cannot be opened, so where it gets access tokens is not known"))
		case opened.Secrets.Auth != nil && opened.Secrets.Auth.TokenURL != "":
			goes(opened.Secrets.Auth.TokenURL, cb.ID+" (its access tokens)")
		}
	}
	known := d.c.Health(ctx, ids)
	silent := 0
	for _, id := range ids {
		health, answered := known[id]
		if !answered {
			silent++
		}
		if words, bad := healths[health]; bad {
			found = append(found, Wrong(Callbacks, id, words,
				"GET /v1/callbacks/"+id+"/deliveries says what the receiver answers; tell its operator"))
		}
	}
	if silent > 0 {
		found = append(found,
			Unknown(Callbacks, "", "the owners of %s did not answer", plural(silent, "callback", "callbacks")))
	}
	found = append(found, d.receivers(ctx, hosts)...)
	if len(found) == 0 {
		found = append(found, ok(Callbacks, "", "%s, and every receiver can be reached, also for access tokens",
			plural(len(all), "callback", "callbacks")))
	}
	return found
}

var disabled = map[string]string{"gone": "its receiver answered 410", "failing": "every attempt failed for five days"}

var healths = map[string]string{
	"failing":   "its attempts fail, and are tried again",
	"open":      "its receiver fails for several orders, and is only probed",
	"congested": "more orders wait for it than have a place; nothing is lost",
}

// receivers connects to every receiver as deliveries do, by TLS where that is asked for, and sends nothing.
func (d *Doctor) receivers(ctx context.Context, hosts map[string][]string) []Check {
	addresses := make([]string, 0, len(hosts))
	for address := range hosts {
		addresses = append(addresses, address)
	}
	slices.Sort(addresses)
	skipped := max(len(addresses)-mostHosts, 0)
	found, left := findings(ctx, addresses[:len(addresses)-skipped], func(address string) (Check, bool) {
		return receiver(address, hosts[address], d.c.Sender.Reach(ctx, address))
	})
	if skipped += left; skipped > 0 {
		found = append(found, Unknown(Callbacks, "", "%s not reached: there are too many, or there was no time",
			plural(skipped, "receiver was", "receivers were")))
	}
	return found
}

// receiver judges one receiver.
func receiver(address string, callbacks []string, r sender.Reached) (Check, bool) {
	shown := callbacks[:min(len(callbacks), 5)]
	who := strings.Join(shown, ", ")
	if more := len(callbacks) - len(shown); more > 0 {
		who += fmt.Sprintf(" and %d more", more)
	}
	host := printable(address)
	switch {
	case r.Outcome == sender.Cancelled:
		return Unknown(Callbacks, host, "it was not reached: %s", r.Reason), true
	case r.Outcome != sender.Success:
		return Wrong(Callbacks, host, fmt.Sprintf("the receiver of %s cannot be reached: %s", who, r.Reason),
			reachRemedies[r.Outcome]), true
	case len(r.Certificates) > 0 && endsSoon(r.Certificates[0]):
		return Wrong(Callbacks, host, fmt.Sprintf("the certificate of the receiver of %s ends at %s",
			who, r.Certificates[0].NotAfter.Format(time.RFC3339)),
			"tell its operator to renew it"), true
	}
	return Check{}, false
}

// endsSoon reports whether somebody must renew a certificate.
func endsSoon(c sender.Certificate) bool {
	return relay.MustAct(time.Until(c.NotAfter), c.NotAfter.Sub(c.NotBefore))
}

var reachRemedies = map[sender.Outcome]string{
	sender.ConnectFailed: "check the name in DNS and the way there; else tell its operator",
	sender.Timeout:       "check the way there; else tell its operator",
	sender.TLSFailed: "tell its operator; for a certificate of an authority of their own see " +
		"RELAY_CALLBACK_CA_FILE",
	sender.AddressRefused: "if callbacks may reach that network, add it to RELAY_CALLBACK_ALLOW_CIDRS; else the " +
		"callback needs another URL",
	sender.Invalid: "give the callback another URL",
}

// printable takes away what a terminal would not print, and bounds the text: others have chosen some of it.
func printable(s string) string {
	const longest = 500
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > longest {
		s = string(runes[:longest]) + "…"
	}
	return strings.TrimSpace(s)
}
