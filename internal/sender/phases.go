package sender

import (
	"context"
	"net/http/httptrace"
	"time"
)

// Phases is where the time of an attempt went. A phase that did not happen is 0: over a connection
// that was used before there is only FirstByte. One that failed lasted until it failed.
type Phases struct {
	DNS       time.Duration // looking up the name of the receiver, and of the proxy
	Connect   time.Duration // until the connection was accepted
	TLS       time.Duration // the handshakes
	FirstByte time.Duration // from the beginning of the request until the response began; 0 if it did not
}

// traced returns a context whose dials add the time of their look-ups to DNS.
func (p *Phases) traced(ctx context.Context) context.Context {
	var begun time.Time
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { begun = time.Now() },
		DNSDone:  func(httptrace.DNSDoneInfo) { p.DNS += time.Since(begun) },
	})
}
