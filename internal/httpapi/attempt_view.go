package httpapi

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signature"
)

// redacted stands for a header's value that is a secret, or could be one.
const redacted = "[redacted]"

// attempt returns an attempt as the API shows it.
func (a *API) attempt(cb relay.Callback, rec relay.AttemptRecord) Attempt {
	view := Attempt{
		Number: rec.Number, At: rec.At, DurationMillis: rec.DurationMillis, Outcome: rec.Outcome,
		Status: rec.Status, Error: rec.Error, Excerpt: rec.Excerpt, Probe: rec.Probe, Replay: rec.Replay,
		ResponseHeaders: responseHeaders(rec.Headers), Phases: phases(rec.Phases),
	}
	if rec.Remote.IsValid() { // else there was no connection, and nothing was sent
		view.RemoteAddress, view.RequestHeaders = rec.Remote.String(), a.requestHeaders(cb, rec)
	}
	return view
}

func phases(p relay.Phases) Phases {
	return Phases{DnsMillis: p.DNS, ConnectMillis: p.Connect, TlsMillis: p.TLS, FirstByteMillis: p.FirstByte}
}

// requestHeaders returns the header of an attempt's request, as far as it is known: the log of
// attempts does not hold it. What depends on the callback's settings is what they are now. The
// client's own headers may be secrets.
func (a *API) requestHeaders(cb relay.Callback, rec relay.AttemptRecord) map[string]string {
	headers := make(map[string]string, 7+len(cb.HeaderNames))
	for _, name := range cb.HeaderNames {
		headers[strings.ToLower(name)] = redacted
	}
	if cb.AuthType != "" {
		headers["authorization"] = redacted
	}
	if to, err := url.Parse(cb.ShownURL); err == nil && to.Host != "" {
		headers["host"] = to.Host
	}
	if a.c.UserAgent != "" {
		headers["user-agent"] = a.c.UserAgent
	}
	if rec.Bytes > 0 {
		headers["content-length"] = strconv.Itoa(rec.Bytes)
	}
	headers["content-type"] = cb.ContentType
	headers[strings.ToLower(signature.HeaderID)] = rec.Event
	headers[strings.ToLower(signature.HeaderTimestamp)] = strconv.FormatInt(rec.At.Unix(), 10)
	headers[strings.ToLower(signature.HeaderSignature)] = "v1," + redacted
	if rec.Replay != "" {
		headers["webhook-replay"] = rec.Replay
	}
	return headers
}

// responseHeaders returns the header of an attempt's response as far as it is kept.
func responseHeaders(lines string) map[string]string {
	if lines == "" {
		return nil
	}
	headers := map[string]string{}
	for line := range strings.Lines(lines) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		headers[name] = value
	}
	return headers
}
