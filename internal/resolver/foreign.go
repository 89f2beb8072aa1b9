package resolver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

const (
	// foreignMost is how many different things that are no notifications are kept of one connection.
	// More are counted together: a maintenance page may contain the present time, so that each is
	// different.
	foreignMost = 8
	// foreignTries is how often an entry is written at most if others change it at the same time.
	foreignTries = 10
)

// setForeignAside sets something aside that was sent instead of a notification. Equal bytes have one
// entry, which counts how often they came, and are published once. Equal notifications have one entry
// each, as both may be genuine.
func (r *Resolver) setForeignAside(ctx context.Context, it *item, why reason, detail string) error {
	for range foreignTries {
		doc, revision, err := r.foreignEntry(ctx, it, why, detail)
		if err != nil {
			return fmt.Errorf("set aside what came on connection %s: %w", it.connection, err)
		}
		counted := revision > 0 && doc.LastEntry >= it.entry() && !it.info.ReceivedAt.After(doc.LastReceivedAt)
		if !counted { // else this is the second try, after a crash
			if revision > 0 {
				doc.Count++
				doc.LastEntry, doc.LastReceivedAt = it.entry(), it.info.ReceivedAt.UTC()
			}
			revision, err = r.put(ctx, &doc, revision)
		}
		if contested(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set aside what came on connection %s: %w", it.connection, err)
		}
		if !counted {
			r.noteAside(ctx, it, doc)
		}
		if doc.Published {
			return nil
		}
		message := fmt.Sprintf("Something else was sent in the place of connection %s's queue, and holds no "+
			"notification. "+
			"It is kept among the unresolved notifications as %s; the same bytes are counted there and not reported "+
			"again.", it.connection, doc.ID)
		if doc.ID == foreignID(it.connection, foreignOthers) {
			message = fmt.Sprintf("More than %d different things were sent in the place of connection %s's queue. "+
				"All further ones are counted in the unresolved entry %s, which has the bytes of the first; the "+
				"others are in the inbox only.",
				foreignMost, it.connection, doc.ID)
		}
		if err := r.cfg.Publisher.Operational(ctx, relay.NoSite, relay.KindOrderUnresolved, it.connection, message,
			map[string]any{"unresolved": doc.ID, "connection": it.connection, "reason": doc.Reason,
				"detail": doc.Detail}); err != nil {
			return fmt.Errorf("publish an event about what came on connection %s: %w", it.connection, err)
		}
		doc.Published = true
		if _, err := r.put(ctx, &doc, revision); err == nil || !contested(err) {
			return err
		}
	}
	return fmt.Errorf("%w: the entry of what came on connection %s changes all the time",
		store.ErrUnavailable, it.connection)
}

// foreignOthers is the last part of the id of the entry that counts everything beyond foreignMost.
const foreignOthers = "others"

func foreignID(connection, what string) string { return foreignPrefix(connection) + "." + what }

// foreignPrefix is how the ids of a connection's entries begin. No notification has such an id.
func foreignPrefix(connection string) string { return connection + ".foreign" }

// foreignEntry returns the stored entry that counts something and its revision, or a new entry with
// revision 0.
func (r *Resolver) foreignEntry(
	ctx context.Context, it *item, why reason, detail string,
) (relay.Unresolved, uint64, error) {
	sum := sha256.New()
	sum.Write([]byte(strconv.Itoa(max(it.size, len(it.raw))) + " "))
	sum.Write(it.raw)
	id := foreignID(it.connection, hex.EncodeToString(sum.Sum(nil)[:8]))
	doc, revision, err := r.store.Unresolved.Get(ctx, id)
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return doc, revision, err
	}
	if it.encoded { // it may hold notifications, so each has its own entry
		return r.unresolved(it, id, why, detail), 0, nil
	}
	n, err := r.store.Unresolved.Count(ctx, foreignPrefix(it.connection))
	if err != nil {
		return doc, 0, err
	}
	if n >= foreignMost {
		others := foreignID(it.connection, foreignOthers)
		doc, revision, err = r.store.Unresolved.Get(ctx, others)
		switch {
		case err == nil && n > foreignMost: // which counts itself
			return doc, revision, nil
		case errors.Is(err, store.ErrNotFound):
			id, detail = others, "one of many different things that hold no notification; this entry has the bytes "+
				"of the first"
		case err != nil:
			return doc, 0, err
		}
	}
	return r.unresolved(it, id, why, detail), 0, nil
}
