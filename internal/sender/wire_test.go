package sender

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// pair is a wire and the other end of its connection.
func pair(t testing.TB) (*wire, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWire(near.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(); far.Close() })
	return w, far.(*net.TCPConn)
}

func TestIdleConnectionIsLookedAtWithoutWaiting(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		far  func(*net.TCPConn)
		want state
	}{
		"nothing":      {func(*net.TCPConn) {}, silent},
		"a byte":       {func(c *net.TCPConn) { _, _ = c.Write([]byte("x")) }, stray},
		"an end":       {func(c *net.TCPConn) { _ = c.CloseWrite() }, gone},
		"closed":       {func(c *net.TCPConn) { c.Close() }, gone},
		"a 408":        {func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.0 408 Request Time-out\r\n")) }, gone},
		"half a 408":   {func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.0 40")) }, stray},
		"other status": {func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.0 200 OK\r\n")) }, stray},
	} {
		w, far := pair(t)
		w.setDeadline(time.Now().Add(time.Minute))
		conn := &conn{wire: w, rw: w}
		c.far(far)
		got := conn.look()
		for range 5000 { // what was sent takes a moment
			if got != silent || c.want == silent {
				break
			}
			<-time.After(time.Millisecond)
			got = conn.look()
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	w, far := pair(t)
	under := &records{Conn: w} // as below TLS, with a record of which a part has come
	if _, err := far.Write([]byte{23, 3, 3, 0, 9, 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(under, make([]byte, 6)); err != nil || under.whole() {
		t.Errorf("a part of a record is whole: %v", err)
	}
	if got := (&conn{wire: w, rw: under, under: []*records{under}}).look(); got != gone {
		t.Errorf("behind a part of a record: %d", got)
	}
}

// What is written arrives in order and whole, and no write of a request waits for the other side to
// read.
func TestWritesDoNotWait(t *testing.T) {
	t.Parallel()
	w, far := pair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)    // more than the sockets take
	if n, err := w.Write(want); n != len(want) || err != nil { // nobody reads yet
		t.Fatalf("%d, %v", n, err)
	}
	if w.sending == nil {
		t.Fatal("the sockets took it all at once: the test proves nothing")
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what arrived differs: %v", err)
	}
	if n, err := w.Write([]byte("more")); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := io.ReadFull(far, got[:4]); err != nil || string(got[:4]) != "more" {
		t.Errorf("%q, %v", got[:4], err)
	}
}

func TestAbortEndsAndPreventsWaiting(t *testing.T) {
	t.Parallel()
	w, _ := pair(t)
	time.AfterFunc(5*time.Millisecond, w.abort)
	if _, err := w.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("read: %v", err)
	}
	w.setDeadline(time.Now().Add(time.Minute))
	if _, err := w.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("read after the abort: %v", err)
	}
	if _, err := w.Write([]byte("x")); !isTimeout(err) {
		t.Errorf("write after the abort: %v", err)
	}
}

// However the bytes are cut, the records are whole exactly where one ends.
func TestRecordsKnowWhereTheyEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		ends := map[int]bool{0: true}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 700), 1, 8).Draw(t, "records") {
			stream = append(stream, 23, 3, 3, byte(n>>8), byte(n))
			stream = append(stream, make([]byte, n)...)
			ends[len(stream)] = true
		}
		cut := rapid.IntRange(0, len(stream)).Draw(t, "cut")
		r := &records{Conn: reading{bytes.NewReader(stream[:cut])}}
		for at := 0; at < cut; {
			n, err := r.Read(make([]byte, rapid.IntRange(1, 300).Draw(t, "chunk")))
			if err != nil {
				t.Fatal(err)
			}
			if at += n; r.whole() != ends[at] {
				t.Fatalf("after %d bytes: whole is %v", at, r.whole())
			}
		}
	})
}

// reading is a connection that only reads.
type reading struct{ io.Reader }

func (r reading) Read(p []byte) (int, error)     { return r.Reader.Read(p) }
func (reading) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (reading) Close() error                     { return nil }
func (reading) LocalAddr() net.Addr              { return nil }
func (reading) RemoteAddr() net.Addr             { return nil }
func (reading) SetDeadline(time.Time) error      { return nil }
func (reading) SetReadDeadline(time.Time) error  { return nil }
func (reading) SetWriteDeadline(time.Time) error { return nil }
