package audatex

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// reachTimeout is how long a host of the vendor may take to respond at all.
const reachTimeout = 10 * time.Second

// Reached is what a request without a token shows of a host of the vendor.
type Reached struct {
	Host     string
	Protocol string        // as HTTP/1.1, and the version of TLS
	Date     time.Time     // of the response; zero: it has none that can be read
	Skew     time.Duration // the host's clock less ours
	Err      error         // why there was no response
}

// Reach asks the host of an address for nothing in particular, without a token: any response will do. It uses the
// same connection settings and proxy as calls.
func Reach(ctx context.Context, address string) Reached {
	u, err := endpointURL(address)
	if err != nil {
		return Reached{Err: err}
	}
	r := Reached{Host: u.Host}
	if r.Err = checkProxy(http.ProxyFromEnvironment, u); r.Err != nil {
		return r
	}
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, errors.New("no answer within "+reachTimeout.String()))
	defer cancel()
	var connected bool
	var shaken handshake
	u.Path, u.RawPath = "/", ""
	req, err := http.NewRequestWithContext(shaken.watch(ctx, &connected), http.MethodHead, u.String(), http.NoBody)
	if err != nil {
		r.Err = err
		return r
	}
	req.Header.Set("User-Agent", defaultUserAgent)
	client := httpClient(newTransport(nil, false))
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		r.Err = cause(ctx, shaken.explain(err, connected))
		return r
	}
	_ = res.Body.Close()
	now := time.Now()
	r.Protocol = res.Proto
	if res.TLS != nil {
		r.Protocol += ", TLS"
	}
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		r.Date = date
		r.Skew = date.Add(500 * time.Millisecond).Sub(now) // it has whole seconds
	}
	return r
}
