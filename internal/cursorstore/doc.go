// Package cursorstore stores cursors (package cursor) for every reader of a log: it reads what the readers of a shard
// have stored, writes it under a new owner's epoch, stores what changes, and takes back what a log no longer has. Every
// write follows the one rule of store.PutOwned, so nothing that a later owner has written is ever lost. Begin reading
// at Store; what follows is how a reader uses it.
package cursorstore

// How a reader uses a Store:
//
//	cursors := cursorstore.New(s, store.CallbackCursors, log)
//
//	// Once, before this replica takes any shard: no cursor may stand beyond the end of its log.
//	err := cursors.Clamp(ctx, now, nil, end, tell)
//
//	// When a shard has come: read, build, adopt. Until Adopt has returned nothing of these cursors may be started.
//	// Shards that come together are read together.
//	found, err := cursors.Load(ctx, shard, ids)       // or LoadSome for readers that come later
//	f := found[id]
//	if f.Epoch() > lease.Epoch() { lease.Superseded(f.Epoch()); return }
//	c, err := f.Restore(policy, generation, now)
//	if c == nil {                                     // nothing is stored of this generation, or err is the reason
//		c = f.Begin(policy, generation, startAfter, now)
//	}
//	c.Clamp(last) …                                   // whatever the reader changes first
//	c.Adopt(lease.Epoch())
//	save := cursorstore.Save{Handle: f.Handle, Changes: c.Changes()}
//	r := cursors.Adopt(ctx, lease.Epoch(), []cursorstore.Save{save, …})[0]
//	switch {
//	case r.Outcome == store.Written: c.Stored(save.Changes)
//	case r.Outcome == store.Superseded: lease.Superseded(r.Epoch); return
//	case r.Fenced:                                    // nobody else writes it now; the next Changes have the rest
//	case r.Outcome == store.Changed:                  // a former owner has written meanwhile: load it again
//	default:                                          // the store is in trouble (r.Err): load it again, later
//	}
//
//	// While it works: one round at a time of each cursor.
//	save := cursorstore.Save{Handle: f.Handle, Changes: c.Changes()}   // where the cursor's owner is
//	r := cursors.Flush(ctx, lease.Epoch(), []cursorstore.Save{save, …})[0]    // may be another goroutine
//	if r.Outcome == store.Written {
//		c.Stored(save.Changes)                    // where the cursor's owner is
//	}                                                 // else all of it comes again with the next Changes
//
//	// Quiet cursors need no write of their own: one watermark of the shard has how far all have come.
//	mark, later, err := cursors.AdoptWatermark(ctx, shard, lease.Epoch(), end)    // between Load and Adopt
//	c.Advance(mark.Base)                              // those whose documents are not marked behind, before c.Adopt
//	later, err := cursors.StoreWatermark(ctx, &mark, at)                // while it works, where it has moved
//
//	// When a reader has gone for good.
//	err := cursors.Erase(ctx, lease.Epoch(), f, "")
//
// A Handle has no lock: one Load, Adopt or Flush of it at a time, and who hands it to another goroutine
// leaves it alone until that one has returned. Nobody else needs it: the cursor itself, and so all
// decisions, stays with its owner meanwhile, and what changes during a Flush comes with the next one.
//
// What a cursor counts as settled must be recorded before. A reader that records attempts takes records and
// Changes in one turn, appends the records, and flushes only those cursors whose records are stored.
//
// Nothing here asks for the lease, as only the owner knows what may still be stored without it: ask right
// before each call.
