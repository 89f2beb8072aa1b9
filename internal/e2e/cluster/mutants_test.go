package cluster

import (
	"bytes"
	"fmt"
)

// apply breaks a source.
func (p place) apply(source []byte) ([]byte, error) {
	if n := bytes.Count(source, []byte(p.from)); n != 1 {
		return nil, fmt.Errorf("%s has %d times, not once:\n%s", p.file, n, p.from)
	}
	return bytes.Replace(source, []byte(p.from), []byte(p.to), 1), nil
}
