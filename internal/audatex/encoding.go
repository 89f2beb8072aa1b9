package audatex

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/audatex-relay/relay/internal/relay"
)

// maxEncodings bounds how many encodings one response may have on top of each other. Each costs at
// most the operation's limit.
const maxEncodings = 4

// content is the body of a response, as far as it arrived, without its content encodings and in
// UTF-8.
type content struct {
	body []byte
	// more is set if the body, or one of its encoded forms, is longer than the limit.
	more bool
	// encoding lists the encodings that body still has because they could not be decoded; empty for
	// a plain body.
	encoding string
}

// stillEncoded returns the error for a response that could not be decoded, nil for a plain one.
func (c content) stillEncoded() error {
	if c.encoding == "" {
		return nil
	}
	return fmt.Errorf("the answer has the Content-Encoding %q, which cannot be undone; %s was asked for",
		c.encoding, identity)
}

// readContent reads the body of a response and decodes its content encodings, although none was
// requested: a labelled one, and one that is recognised by its bytes if the label is missing or
// wrong. Neither the encoded form nor any decoded form is read beyond limit bytes. A label is
// ignored if the bytes are plain text. What was read is always returned; an error means that it is
// only the beginning of what was sent.
func readContent(res *http.Response, limit int64) (content, error) {
	body, more, err := readBody(res.Body, limit)
	c := content{body: body, more: more}
	if len(body) == 0 {
		return c, err
	}
	labels := contentEncodings(res.Header)
	if len(labels) == 0 && sniff(body) == "" {
		c.body, c.more = cutTo(toUTF8(body, res.Header), limit, more)
		return c, err
	}
	undone, failed := undo(labels, body, limit)
	undone.more = undone.more || more
	if undone.encoding == "" {
		undone.body, undone.more = cutTo(toUTF8(undone.body, res.Header), limit, undone.more)
	}
	if err != nil || undone.more { // if an encoded form is incomplete, that is why
		return undone, err
	}
	return undone, failed
}

// undo decodes the encodings in the reverse order of their labels. An error means that the encoded
// bytes end too early, or are damaged after what could be read.
func undo(labels []string, body []byte, limit int64) (content, error) {
	c := content{body: body}
	left := labels
	if len(labels) > maxEncodings {
		c.encoding = joinLabels(labels)
		return c, nil
	}
	for ; len(left) > 0; left = left[:len(left)-1] {
		if isText(c.body) { // a label without a meaning, such as "utf-8", or one that a gateway did not remove
			return c, nil
		}
		label := left[len(left)-1]
		if isCharset(label) {
			continue
		}
		decoded, more, err := decode(label, c.body, limit)
		if other := sniff(c.body); err != nil && len(decoded) == 0 && other != "" && other != label { // a wrong label
			decoded, more, err = decode(other, c.body, limit)
		}
		if err != nil && len(decoded) == 0 {
			c.encoding = joinLabels(left)
			return c, nil
		}
		c.body, c.more = decoded, c.more || more
		if err != nil && !lacksEnd(decoded, err) {
			return c, err
		}
	}
	if other := sniff(c.body); other != "" { // encoded once more than labelled
		decoded, more, err := decode(other, c.body, limit)
		if err != nil && len(decoded) == 0 {
			return c, nil
		}
		c.body, c.more = decoded, c.more || more
		if !lacksEnd(decoded, err) {
			return c, err
		}
	}
	return c, nil
}

// lacksEnd reports whether only the end of an encoded form is missing, which holds its checksum:
// the contents are a complete JSON document.
func lacksEnd(decoded []byte, err error) bool {
	b := trimJSON(decoded)
	return errors.Is(err, io.ErrUnexpectedEOF) && len(b) > 0 && (b[0] == '{' || b[0] == '[' || b[0] == '"') &&
		json.Valid(b)
}

var errUnknownEncoding = errors.New("unknown content encoding")

// decode decodes one encoding and reads at most limit bytes of the result. What could be read is
// returned with the error.
func decode(label string, body []byte, limit int64) (decoded []byte, more bool, err error) {
	var r io.Reader
	switch strings.TrimPrefix(label, "x-") {
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate": // this means zlib; some servers send the bare stream
		r, err = zlib.NewReader(bytes.NewReader(body))
		if err == nil {
			if decoded, more, err = readBody(r, limit); err == nil || len(decoded) > 0 {
				return decoded, more, err
			}
		}
		r, err = flate.NewReader(bytes.NewReader(body)), nil
	case "br":
		r = brotli.NewReader(bytes.NewReader(body))
	case "zstd":
		var d *zstd.Decoder
		d, err = zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(8<<20))
		if err == nil {
			defer d.Close()
			r = d
		}
	default:
		err = errUnknownEncoding
	}
	if err != nil {
		return nil, false, err
	}
	decoded, more, err = readBody(r, limit)
	if errors.Is(err, gzip.ErrHeader) && len(decoded) > 0 { // bytes after the stream, such as padding
		err = nil
	}
	return decoded, more, err
}

// contentEncodings returns the labels of a response in lower case, in the order in which they were
// applied.
func contentEncodings(h http.Header) []string {
	var labels []string
	for _, line := range h["Content-Encoding"] {
		for label := range strings.SplitSeq(line, ",") {
			label, _, _ = strings.Cut(label, ";") // only requests have weights
			label = strings.ToLower(strings.Trim(label, " \t\""))
			if label != "" && label != identity && label != "none" {
				labels = append(labels, label)
			}
		}
	}
	return labels
}

// joinLabels joins labels for an error and for a header of the store.
func joinLabels(labels []string) string {
	s := message([]byte(strings.Join(labels, ", ")), relay.Secret{})
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "")
	}
	return s
}

// sniff returns the encoding that bytes seem to have, or "". Neither text nor UTF-16 begins like
// any of them.
func sniff(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b, 8}):
		return "gzip"
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	case len(b) > 2 && b[0] == 0x78 && (b[1] == 1 || b[1] == 0x5e || b[1] == 0x9c || b[1] == 0xda) && !isText(b):
		return "deflate"
	}
	return ""
}

// isCharset reports whether a label is a charset, which belongs in the Content-Type.
func isCharset(label string) bool {
	return strings.HasPrefix(label, "utf-") || strings.HasPrefix(label, "iso-8859") || label == "utf8" ||
		label == "us-ascii"
}

// isText reports whether b is UTF-8 without control characters other than white space. Encoded
// bytes are not.
func isText(b []byte) bool {
	control := func(c byte) bool { return c < ' ' && c != '\t' && c != '\n' && c != '\r' }
	return !slices.ContainsFunc(b, control) && utf8.Valid(b)
}
