package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The limits of what is taken from whoever responds at a relay's address: it may be anybody.
const (
	askLimit    = limit + 10*time.Second
	connectMost = 5 * time.Second
	maxReport   = 1 << 20
)

// AskError is why a relay did not give a report.
type AskError struct {
	Running bool // something responds there
	Finding string
	Remedy  string
}

// Error is the finding.
func (e *AskError) Error() string { return e.Finding }

// Ask asks the relay at an address (scheme, host and port) for a report, with an administrator's token. The error is
// an *AskError. It ends in time whatever responds there, and takes nothing from it that a terminal would not print.
func Ask(ctx context.Context, address, token string) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/v1/doctor", http.NoBody)
	if err != nil {
		return Report{}, &AskError{Finding: "the relay's address is no URL", Remedy: "correct --url"}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{ // no proxy: the token is for the relay alone
		DialContext: (&net.Dialer{Timeout: connectMost}).DialContext, DisableKeepAlives: true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout:    connectMost,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	res, err := client.Do(req)
	if err != nil {
		return Report{}, unreachable(address, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxReport+1))
	switch {
	case err != nil:
		return Report{}, &AskError{true, "the answer at " + address + " did not come to its end",
			"ask again; if it stays so, look what listens there"}
	case res.StatusCode != http.StatusOK:
		return Report{}, refused(address, res.StatusCode)
	}
	return read(address, body)
}

// unreachable distinguishes a relay that is not there from one that hangs.
func unreachable(address string, err error) *AskError {
	var network *net.OpError
	switch {
	case errors.As(err, &network) && network.Op == "dial":
		return &AskError{false, "no relay answers at " + address,
			"start it; if it listens elsewhere, give its address with --url"}
	case errors.Is(err, context.DeadlineExceeded):
		return &AskError{true, fmt.Sprintf("what listens at %s does not answer within %s", address, askLimit),
			"look at the relay's log; if it is no relay, give the relay's address with --url"}
	}
	return &AskError{true, "what listens at " + address + " does not answer in HTTP",
		"give the relay's address with --url; https:// if TLS is before it"}
}

func refused(address string, status int) *AskError {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return &AskError{true, "the relay at " + address + " refuses the admin token",
			"run it with the RELAY_ADMIN_TOKEN or RELAY_ADMIN_TOKENS of the relay"}
	case http.StatusNotFound:
		return &AskError{true, "what answers at " + address + " has no GET /v1/doctor",
			"give the relay's address with --url; an older relay must be upgraded"}
	case http.StatusTooManyRequests:
		return &AskError{true, "the relay at " + address + " is being examined already, or has too many callers",
			"ask again in half a minute"}
	case http.StatusServiceUnavailable:
		return &AskError{true, "the relay at " + address + " is not ready",
			"GET /readyz and its log say what it waits for"}
	}
	return &AskError{true, fmt.Sprintf("what answers at %s refuses with %d", address, status),
		"look at the relay's log"}
}

// read reads a report as one of a stranger.
func read(address string, body []byte) (Report, error) {
	var r Report
	if err := json.Unmarshal(body, &r); err != nil || len(body) > maxReport || len(r.Checks) == 0 {
		return Report{}, &AskError{true, "what answers at " + address + " is no relay: its report cannot be read",
			"give the relay's address with --url"}
	}
	r.Version, r.Replica = printable(r.Version), printable(r.Replica)
	for i, c := range r.Checks {
		c.Subject, c.Finding, c.Remedy = printable(c.Subject), printable(c.Finding), printable(c.Remedy)
		if !slices.Contains(areas, c.Area) { // of a newer relay
			c.Area, c.Subject = Relay, strings.TrimSpace(printable(string(c.Area))+" "+c.Subject)
		}
		if c.State != OK && c.State != Unchecked {
			c.State = Trouble
		}
		r.Checks[i] = c
	}
	return r, nil
}
