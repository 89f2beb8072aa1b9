package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/audatex-relay/relay/internal/backup"
	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/store"
)

type backupCommand struct {
	settings.Tool
	settings.Keys `group:"Storage"`
	Dir           string `arg:"" help:"Directory to make; it must not be there yet."`
}

type restoreCommand struct {
	settings.Tool
	settings.Keys `group:"Storage"`
	Dir           string `arg:"" help:"Directory that relay backup made."`
	Replace       bool   `help:"Delete what the store holds before."`

	Ahead settings.Duration `placeholder:"2h" help:"How far numbers of events run ahead of the clock already, as the last restore has said. Needed only if the store of that restore is lost, not replaced."`
}

// Run takes a backup: of a cluster while its relays run, of embedded storage while none does.
func (c *backupCommand) Run(p program) error {
	config, done, err := openBackup(p, c.Tool, c.Keys, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := backup.Save(p.ctx, config, filepath.Clean(c.Dir))
	if err != nil {
		return whichKeys(err)
	}
	messages := uint64(0)
	for _, s := range m.Streams {
		messages += s.Messages
	}
	_, err = fmt.Fprintf(p.stdout, "%s: %d messages of %d streams, formats %d, taken in %s\n"+
		"The encryption keys are not in it. Keep them elsewhere; their fingerprint is %s.\n",
		c.Dir, messages, len(m.Streams), m.Formats, m.Ended.Sub(m.Began).Round(time.Millisecond), m.Keys)
	return err
}

// Run restores a backup and prints what must be checked.
func (c *restoreCommand) Run(p program) error {
	config, done, err := openBackup(p, c.Tool, c.Keys, true)
	if err != nil {
		return err
	}
	defer done()
	if config.Ahead = c.Ahead.D(); config.Ahead < 0 {
		return settings.Wrong("--ahead", "%s is below zero", c.Ahead)
	}
	m, err := backup.Restore(p.ctx, config, filepath.Clean(c.Dir), c.Replace)
	if errors.Is(err, backup.ErrNotEmpty) {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if err != nil {
		return whichKeys(err)
	}
	fmt.Fprintf(p.stdout, "Restored what there was at %s. What came after that is not in it.\n"+
		"Numbers of events run %s ahead of the clock from now on (--ahead for another restore, should this store be "+
		"lost).\n",
		m.Ended.Format(time.RFC3339), m.Ahead)
	if len(m.Consents) == 0 {
		return nil
	}
	fmt.Fprintln(p.stdout, "\nA refresh token is good for one use. A connection whose token was refreshed after the "+
		"time below needs consent again:\n"+
		"the relay says so (consent-required) as soon as the vendor refuses it.")
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CONNECTION\tLAST REFRESH IN THE BACKUP")
	for _, consent := range m.Consents {
		at := "none"
		if !consent.RefreshedAt.IsZero() {
			at = consent.RefreshedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\n", consent.Connection, at)
	}
	return table.Flush()
}

// openBackup opens the store for a backup or a restore.
func openBackup(
	p program, given settings.Tool, keys settings.Keys, fresh bool,
) (c backup.Config, done func(), err error) {
	t, err := openTool(p, given, fresh)
	if err != nil {
		return c, nil, err
	}
	if c, err = t.backupConfig(keys); err != nil {
		t.close()
	}
	return c, t.close, err
}

// backupConfig reads the encryption keys; unlike a relay's start it never makes any.
func (t *tool) backupConfig(given settings.Keys) (backup.Config, error) {
	keys, err := given.Read()
	if err != nil {
		return backup.Config{}, err
	}
	if len(keys) == 0 {
		if t.NATSURL != "" {
			return backup.Config{}, settings.Wrong("RELAY_ENCRYPTION_KEYS",
				"is required: the keys that the relays run with")
		}
		if keys, err = store.ReadKeyFile(t.DataDir); err != nil {
			return backup.Config{}, settings.Wrong("RELAY_ENCRYPTION_KEYS",
				"is not set, and there is no key file beside the data: %w", err)
		}
	}
	sealer, err := store.NewSealer(keys)
	if err != nil {
		return backup.Config{}, settings.Wrong("RELAY_ENCRYPTION_KEYS", "%w", err)
	}
	return backup.Config{
		Conn: t.nc, Topology: t.topo, Sealer: sealer, Fingerprint: store.Fingerprint(keys), Release: buildVersion(),
		Exclusive: t.NATSURL == "", Log: t.log,
	}, nil
}

// whichKeys makes an error about the keys one about their setting.
func whichKeys(err error) error {
	if errors.Is(err, backup.ErrKeys) {
		return settings.Wrong("RELAY_ENCRYPTION_KEYS", "%w", err)
	}
	return err
}
