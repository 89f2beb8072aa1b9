package audatex

import (
	"errors"
	"io"
	"net"
	"testing"
)

func TestConnectionsToTheVendorAreBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d := NewBoundedDialer(2)
	var open []io.Closer
	for range 2 {
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := d.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, errManyCalls) {
		t.Errorf("a third connection: %v", err)
	}
	_, _ = open[0].Close(), open[0].Close()
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, errManyCalls) {
		t.Errorf("a connection closed twice makes room for two: %v", err)
	}
	_, _ = c.Close(), open[1].Close()
}
