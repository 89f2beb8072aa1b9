package sender

import "bytes"

// announced reports whether a response that may have no body announces one. Some receivers then
// send it.
func (h *head) announced() bool { return h.bodyless() && (h.length > 0 || h.coding) }

// bodyless reports whether the status does not allow a body (RFC 9110 section 6.4.1).
func (h *head) bodyless() bool { return h.status == 204 || h.status == 304 || h.status < 200 }

// readBody reads the body of a response as far as it is useful: all of it if the connection can be
// used again afterwards, otherwise only as much as keep holds. The beginning of the body is copied
// to keep. It reports whether the response has ended where it announced its end.
func (r *reader) readBody(h *head, keep []byte) (kept int, whole bool) {
	r.left = maxBody
	switch {
	case h.bodyless():
		return 0, h.status != 101 && !h.announced()
	case h.odd && len(keep) == 0:
		return 0, false
	case h.coding && h.chunked && h.length < 0:
		return r.takeChunks(keep)
	case h.length >= 0 && !h.coding && h.length <= maxBody:
		kept, err := r.take(h.length, keep)
		return kept, err == nil
	case h.length >= 0 && !h.coding:
		kept, _ = r.take(int64(len(keep)), keep)
		return kept, false
	}
	// It ends with the connection. Some receivers would treat an earlier close as an error.
	kept, _ = r.take(maxBody, keep)
	return kept, false
}

// takeChunks reads a chunked body.
func (r *reader) takeChunks(keep []byte) (kept int, whole bool) {
	for {
		line, err := r.line()
		size, ok := chunkSize(line)
		if err != nil || !ok || r.cut {
			return kept, false
		}
		if size == 0 {
			break
		}
		n, err := r.take(size, keep[kept:])
		if kept += n; err != nil {
			return kept, false
		}
		if line, err := r.line(); err != nil || len(line) > 0 {
			return kept, false
		}
	}
	for { // trailers
		line, err := r.line()
		if err != nil {
			return kept, false
		}
		if len(line) == 0 {
			return kept, !r.odd
		}
		if line[0] == ' ' || line[0] == '\t' || hasControl(line) || bytes.IndexByte(line, ':') < 1 {
			return kept, false
		}
	}
}

// chunkSize parses the line before a chunk. Extensions after the size are ignored.
func chunkSize(line []byte) (size int64, ok bool) {
	n := 0
	for ; n < len(line) && n <= 8; n++ {
		c := line[n]
		switch {
		case c >= '0' && c <= '9':
			size = size<<4 | int64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			size = size<<4 | int64(c|0x20-'a'+10)
		default:
			rest := bytes.TrimLeft(line[n:], " \t")
			return size, n > 0 && (len(rest) == 0 || rest[0] == ';') && !hasControl(line)
		}
	}
	return size, n > 0 && n <= 8
}
