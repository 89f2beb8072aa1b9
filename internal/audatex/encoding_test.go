package audatex

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/audatex-relay/relay/internal/relay"
)

// encoded runs s through a writer that encodes.
func encoded(s string, through func(io.Writer) io.WriteCloser) []byte {
	var b bytes.Buffer
	w := through(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.Bytes()
}

func gzipped(s string) []byte {
	return encoded(s, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func zlibbed(s string) []byte {
	return encoded(s, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
}

func deflated(s string) []byte {
	return encoded(s, func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 9); return f })
}

func brotlied(s string) []byte {
	return encoded(s, func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 1) })
}

func zstandard(s string) []byte {
	return encoded(s, func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z })
}

const encodedPage = `[{"NotificationId":"1","Topic":"PARTS.ORDER.UPDATED"},{"NotificationId":"2",` +
	`"Topic":"PARTS.ORDER.UPDATED"}]`

func TestAnswersAreDecodedThoughIdentityWasAskedFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		body   []byte
		labels []string
	}{
		"gzip":               {gzipped(encodedPage), []string{"gzip"}},
		"x-gzip":             {gzipped(encodedPage), []string{"x-gzip"}},
		"upper case":         {gzipped(encodedPage), []string{" GZip "}},
		"quoted":             {gzipped(encodedPage), []string{`"gzip"`}},
		"deflate":            {zlibbed(encodedPage), []string{"deflate"}},
		"bare deflate":       {deflated(encodedPage), []string{"deflate"}},
		"br":                 {brotlied(encodedPage), []string{"br"}},
		"zstd":               {zstandard(encodedPage), []string{"zstd"}},
		"x-deflate":          {zlibbed(encodedPage), []string{"x-deflate"}},
		"with a weight":      {gzipped(encodedPage), []string{"gzip;q=1.0"}},
		"a charset behind":   {gzipped(encodedPage), []string{"gzip, utf-8"}},
		"a charset before":   {gzipped(encodedPage), []string{"UTF-8", "gzip"}},
		"br that is gzip":    {gzipped(encodedPage), []string{"br"}},
		"gzip that is zlib":  {zlibbed(encodedPage), []string{"gzip"}},
		"gzip that is zstd":  {zstandard(encodedPage), []string{"gzip"}},
		"unknown, is gzip":   {gzipped(encodedPage), []string{"packed"}},
		"no label, zlib":     {zlibbed(encodedPage), nil},
		"no label, zstd":     {zstandard(encodedPage), nil},
		"gzip without end":   {gzipped(encodedPage)[:len(gzipped(encodedPage))-8], []string{"gzip"}},
		"zlib without end":   {zlibbed(encodedPage)[:len(zlibbed(encodedPage))-4], []string{"deflate"}},
		"two":                {gzipped(string(zlibbed(encodedPage))), []string{"deflate, gzip"}},
		"two lines":          {brotlied(string(gzipped(encodedPage))), []string{"gzip", "br"}},
		"identity as well":   {gzipped(encodedPage), []string{"identity, gzip,,identity"}},
		"identity":           {[]byte(encodedPage), []string{"Identity"}},
		"none":               {[]byte(encodedPage), nil},
		"no label":           {gzipped(encodedPage), nil},
		"one label too few":  {gzipped(string(gzipped(encodedPage))), []string{"gzip"}},
		"a label too many":   {[]byte(encodedPage), []string{"gzip"}},
		"no encoding at all": {[]byte(encodedPage), []string{"utf-8"}},
		"two members":        {append(gzipped(encodedPage[:20]), gzipped(encodedPage[20:])...), []string{"gzip"}},
		"padding":            {append(gzipped(encodedPage), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), []string{"gzip"}},
		"UTF-16 below":       {gzipped(utf16LE(encodedPage)), []string{"gzip"}},
	} {
		c := vendor(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Encoding"] = tt.labels
			_, _ = w.Write(tt.body)
		})
		page, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		if err != nil || string(page.Body) != encodedPage || page.Truncated || page.Encoding != "" {
			t.Errorf("%s: page %q, truncated %v, encoding %q, %v", name, page.Body, page.Truncated, page.Encoding, err)
		}
	}
}

func TestEveryAnswerOfTheVendorMayBeCompressed(t *testing.T) {
	t.Parallel()
	compressed := func(body string) *Client {
		return vendor(t, Config{}, answering(200, string(gzipped(body)), "Content-Encoding", "gzip"))
	}
	ctx := t.Context()
	if order, err := compressed(`[{"PartsOrderId":"`+testOrder+`","Price":1.10}]`).Order(ctx, testToken, testOrder,
		nil); err != nil || !strings.Contains(string(order.JSON), "1.10") {
		t.Errorf("order %s, %v", order.JSON, err)
	}
	if who, err := compressed(`"JBLOGGS"`).Whoami(ctx, testToken); err != nil || who != "JBLOGGS" {
		t.Errorf("who %q, %v", who, err)
	}
	if topics, err := compressed(`[{"TopicCode":"PARTS.ORDER"}]`).Topics(ctx, testToken); err != nil ||
		len(topics) != 1 {
		t.Errorf("topics %v, %v", topics, err)
	}
	if id, err := compressed(`{"SubscriptionId":"`+testSubscription+`"}`).Subscribe(ctx, testToken, relay.LevelSite,
		"PARTS.ORDER"); err != nil || id != testSubscription {
		t.Errorf("subscription %q, %v", id, err)
	}
	if page, err := compressed(`[]`).Poll(ctx, testToken, relay.LevelSite, testSubscription, nil); err != nil ||
		page.Carried() {
		t.Errorf("an empty page carries %q, %v", page.Body, err)
	}
	if page, err := compressed(``).Poll(ctx, testToken, relay.LevelSite, testSubscription, nil); err != nil ||
		page.Carried() {
		t.Errorf("a page of nothing carries %q, %v", page.Body, err)
	}
	c := vendor(t, Config{}, answering(204, "", "Content-Encoding", "gzip"))
	if subs, err := c.Subscriptions(ctx, testToken, relay.LevelSite); err != nil || len(subs) != 0 {
		t.Errorf("subscriptions %v, %v", subs, err)
	}
	c = vendor(t, Config{},
		answering(403, string(gzipped("No permission for this topic.")), "Content-Encoding", "gzip"))
	_, err := c.Topics(ctx, testToken)
	if e := outcomeIs(t, err, Forbidden); e.Message != "No permission for this topic." {
		t.Errorf("message %q", e.Message)
	}
	c = vendor(t, Config{}, answering(500, "\x01\x02\x03", "Content-Encoding", "exi"))
	_, err = c.Topics(ctx, testToken)
	if e := outcomeIs(t, err, Unavailable); e.Message != "" {
		t.Errorf("message %q", e.Message)
	}
}

func TestAnOrderInTheCharsetItsTypeNamesIsRead(t *testing.T) {
	t.Parallel()
	for typ, want := range map[string]Outcome{
		"application/json; charset=iso-8859-1": Done, "application/json; charset=Windows-1252": Done,
		"application/json; charset=utf-8": Malformed, "": Malformed,
	} {
		c := vendor(t, Config{}, answering(200,
			`[{"PartsOrderId":"`+testOrder+`","SupplierName":"M`+"\xfc"+`ller \u20ac `+"\x80"+`","Price":1.10}]`,
			"Content-Type", typ))
		order, err := c.Order(t.Context(), testToken, testOrder, nil)
		if outcomeIs(t, err, want); want == Done &&
			!strings.Contains(string(order.JSON), `"Müller \u20ac €","Price":1.10`) {
			t.Errorf("%s: %s", typ, order.JSON)
		}
	}
}

func TestAPageWhoseEncodingCannotBeUndoneIsReturnedWithItsLabel(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		body         []byte
		label, left  string
		notTheseByte bool
	}{
		"unknown":            {body: []byte("\x01\x02page\xff"), label: "x-secret-sauce", left: "x-secret-sauce"},
		"unknown below gzip": {body: gzipped("\x01\x02page\xff"), label: "exi, gzip", left: "exi", notTheseByte: true},
		"damaged":            {body: []byte("\x1f\x8b\x09 no such method"), label: "gzip", left: "gzip"},
		"too many": {body: gzipped("[]"), label: "gzip,gzip,gzip,gzip,gzip",
			left: "gzip, gzip, gzip, gzip, gzip"},
		"a hostile label": {body: []byte("\x00"), label: strings.Repeat("é\u202e", 400), left: ""},
	} {
		c := vendor(t, Config{}, answering(200, string(tt.body), "Content-Encoding", tt.label))
		page, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		e := outcomeIs(t, err, Malformed)
		if e.AnswerLost || page.Truncated || !page.Carried() || page.Encoding == "" || len(page.Encoding) > 100 ||
			(tt.left != "" && page.Encoding != tt.left) {
			t.Errorf("%s: encoding %q, truncated %v, %+v", name, page.Encoding, page.Truncated, e)
		}
		if !tt.notTheseByte && !bytes.Equal(page.Body, tt.body) {
			t.Errorf("%s: the bytes came as %q", name, page.Body)
		}
		if !strings.Contains(err.Error(), "Content-Encoding") {
			t.Errorf("%s: %v does not say what is wrong", name, err)
		}
	}
}

func TestACutCompressedPageYieldsWhatArrived(t *testing.T) {
	t.Parallel()
	body := gzipped(encodedPage)
	for name, handler := range map[string]http.HandlerFunc{
		"a stream that ends early": answering(200, string(body[:len(body)-24]), "Content-Encoding", "gzip"),
		"a checksum that is wrong": answering(200,
			string(append(body[:len(body)-8:len(body)-8], 1, 2, 3, 4, 5, 6, 7, 8)),
			"Content-Encoding", "gzip"),
		"a connection that ends": cut("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n" +
			string(body[:len(body)-12])),
	} {
		c := vendor(t, Config{}, handler)
		page, err := c.Poll(t.Context(), testToken, relay.LevelSite, testSubscription, nil)
		if e := outcomeIs(t, err, Unavailable); !e.AnswerLost || !page.Truncated || page.Encoding != "" {
			t.Errorf("%s: %+v, truncated %v, encoding %q", name, e, page.Truncated, page.Encoding)
		}
		if !strings.HasPrefix(encodedPage, string(page.Body)) ||
			!strings.Contains(string(page.Body), `"NotificationId":"1"`) {
			t.Errorf("%s: page %q", name, page.Body)
		}
	}
}

// countReader counts what is read of it.
type countReader struct {
	io.Reader
	n int64
}

func (r *countReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}

func (r *countReader) Close() error { return nil }

func TestADecompressionBombIsReadUpToTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 16 << 10
	zeros := strings.Repeat(" ", 256<<10)
	for name, tt := range map[string]struct {
		body  []byte
		label string
	}{
		"gzip":       {gzipped(zeros), "gzip"},
		"nested":     {gzipped(string(gzipped(zeros))), "gzip, gzip"},
		"no label":   {gzipped(zeros), ""},
		"br":         {brotlied(zeros), "br"},
		"zstd":       {zstandard(zeros), "zstd"},
		"deflate":    {zlibbed(zeros), "deflate"},
		"empty ones": {bytes.Repeat(gzipped(""), 1000), "gzip"},
	} {
		r := &countReader{Reader: bytes.NewReader(tt.body)}
		res := &http.Response{Body: r, Header: http.Header{}}
		if tt.label != "" {
			res.Header.Set("Content-Encoding", tt.label)
		}
		got, err := readContent(res, limit)
		if len(got.body) > limit || !got.more || err != nil || r.n > limit+1 {
			t.Errorf("%s: %d bytes out of %d read, more %v, %v", name, len(got.body), r.n, got.more, err)
		}
	}
}

func TestPlainAnswersAreNotCopied(t *testing.T) {
	body := []byte(encodedPage)
	res := &http.Response{Header: http.Header{"Content-Type": {"application/json"}}}
	var r bytes.Reader
	res.Body = io.NopCloser(&r)
	plain := testing.AllocsPerRun(100, func() { r.Reset(body); _, _, _ = readBody(res.Body, maxOtherBody) })
	all := testing.AllocsPerRun(100, func() { r.Reset(body); _, _ = readContent(res, maxOtherBody) })
	if all > plain {
		t.Errorf("%v allocations where reading alone makes %v", all, plain)
	}
}

// FuzzContent: nothing is read or written beyond the limit, and what is encoded comes back.
func FuzzContent(f *testing.F) {
	for _, label := range []string{"", "gzip", "deflate", "br", "zstd", "deflate, gzip", "x"} {
		f.Add(label, []byte(encodedPage))
		f.Add(label, gzipped(encodedPage))
		f.Add(label, zlibbed(encodedPage))
		f.Add(label, zstandard(encodedPage))
		f.Add(label, brotlied(encodedPage))
	}
	f.Fuzz(func(t *testing.T, label string, body []byte) {
		const limit = 4 << 10
		r := &countReader{Reader: bytes.NewReader(body)}
		got, err := readContent(&http.Response{Body: r, Header: http.Header{"Content-Encoding": {label}}}, limit)
		if len(got.body) > limit || r.n > limit+1 {
			t.Fatalf("%d bytes out of %d read", len(got.body), r.n)
		}
		if len(body) > 0 && len(got.body) == 0 && got.encoding != "" {
			t.Errorf("bytes in encoding %q were dropped (%v)", got.encoding, err)
		}
		if len(body) > limit/2 || sniff(body) != "" || string(fromUTF16(body)) != string(body) {
			return
		}
		again, err := readContent(&http.Response{Body: io.NopCloser(bytes.NewReader(gzipped(string(body)))),
			Header: http.Header{"Content-Encoding": {"gzip"}}}, limit)
		if err != nil || !bytes.Equal(again.body, body) {
			t.Errorf("%q came back as %q (%v)", body, again.body, err)
		}
	})
}
