package backup

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"

	"github.com/audatex-relay/relay/internal/store"
)

// whole reads a snapshot through to its end, in either of the forms that servers write: messages
// one by one (since 2.15), or a tar of the stream's files, in which the server reports a failure by
// a file of its own. A connection that was cut leaves neither end.
func whole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read a snapshot back: %w", err)
	}
	defer func() { _ = f.Close() }()
	plain := bufio.NewReader(s2.NewReader(f))
	// less than that is neither
	if magic, _ := plain.Peek(len(archive.MagicBytes)); string(magic) == archive.MagicBytes {
		err = wholeArchive(archive.NewReader(plain))
	} else {
		err = wholeTar(tar.NewReader(plain))
	}
	if err != nil {
		return fmt.Errorf("read a snapshot back: %w", err)
	}
	return nil
}

func wholeArchive(a *archive.Reader) error {
	for {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("it ends too early")
		}
		if err != nil {
			return err
		}
		if h.Name == "" && h.Sequence == 0 { // the mark at its end
			return nil
		}
	}
}

func wholeTar(t *tar.Reader) error {
	for files := 0; ; files++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) && files > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Name == "errors.txt" {
			said, _ := io.ReadAll(io.LimitReader(t, 1<<10))
			return fmt.Errorf("the server did not finish it: %s", said)
		}
		if _, err := io.Copy(io.Discard, t); err != nil {
			return err
		}
	}
}

// describe reads what the manifest records of the documents, and whether the keys open them.
func (a *scratchServer) describe(ctx context.Context, c Config, m *Manifest) error {
	table := c.Topology
	table.Replicas = 1
	mark, err := table.ReadMark(ctx, a.js)
	if err != nil {
		return err
	}
	m.Formats = mark.Formats
	s, err := store.Open(ctx,
		store.Config{Conn: a.nc, Topology: table, Sealer: c.Sealer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("open what was taken: %w", err)
	}
	opened, shut := 0, 0
	count := func(err error) {
		switch {
		case err == nil:
			opened++
		case errors.Is(err, store.ErrSealed):
			shut++
		}
	}
	callbacks, err := s.Callbacks.All(ctx, "", func(_ string, err error) { count(err) })
	if err != nil {
		return err
	}
	opened += len(callbacks)
	connections, err := s.Connections.All(ctx, "", func(string, error) {})
	if err != nil {
		return err
	}
	for _, e := range connections {
		token, _, err := s.Tokens.Token(ctx, e.Key)
		count(err)
		m.Consents = append(m.Consents, Consent{Connection: e.Key, RefreshedAt: token.RefreshedAt})
	}
	slices.SortFunc(m.Consents, func(a, b Consent) int { return strings.Compare(a.Connection, b.Connection) })
	if opened == 0 && shut > 0 {
		return fmt.Errorf("%w: they open none of the %d secrets in the store. Give those that the relay runs with "+
			"(RELAY_ENCRYPTION_KEYS)", ErrKeys, shut)
	}
	orders, err := s.Orders.All(ctx, "", func(string, error) {})
	if err != nil {
		return err
	}
	for _, o := range orders {
		m.Sequence = max(m.Sequence, o.Value.Sequence)
	}
	return nil
}
