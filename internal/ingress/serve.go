package ingress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// requestGrace is how long a request under way may take to end once its server stops.
const requestGrace = time.Second

// Serve serves HTTP on a listener, a Listener or any other, until ctx ends, then gives requests
// under way a second to end.
func Serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	ended := make(chan error, 1)
	go func() {
		if bounded, ok := listener.(*Listener); ok {
			ended <- bounded.Serve(server)
			return
		}
		ended <- server.Serve(listener)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestGrace)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		_ = server.Close() // what is still open was given its time
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
