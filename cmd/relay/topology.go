package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/audatex-relay/relay/internal/settings"
	"github.com/audatex-relay/relay/internal/topology"
)

type topologyCommand struct {
	Check topologyCheckCommand `cmd:"" help:"Hold every stream and bucket against what the relay needs; change nothing. Exit code 1 if they differ."`
	Apply topologyApplyCommand `cmd:"" help:"Create what is missing and bring the rest up to date, as every relay does at its start."`
}

type topologyCheckCommand struct{ settings.Tool }

type topologyApplyCommand struct{ settings.Tool }

// errTopology reports that the table above it is not as it should be.
var errTopology = errors.New("the streams and buckets are not as this relay needs them")

// Run prints how everything is.
func (c *topologyCheckCommand) Run(p program) error {
	t, err := openTool(p, c.Tool, false)
	if err != nil {
		return err
	}
	defer t.close()
	return t.reportTopology(p.ctx, p.stdout)
}

// Run brings everything up to date and prints how it then is.
func (c *topologyApplyCommand) Run(p program) error {
	t, err := openTool(p, c.Tool, true)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.patiently(p.ctx, "the streams and buckets cannot be brought up to date",
		func(ctx context.Context) error {
			return t.topo.Apply(ctx, t.js)
		}); err != nil {
		return err
	}
	return t.reportTopology(p.ctx, p.stdout)
}

// reportTopology prints a line for each stream and bucket, and one for each field that differs.
func (t *tool) reportTopology(ctx context.Context, out io.Writer) error {
	var findings []topology.Finding
	var mark topology.Mark
	if err := t.patiently(ctx, "the streams and buckets cannot be looked at", func(ctx context.Context) (err error) {
		if mark, err = t.topo.ReadMark(ctx, t.js); err == nil {
			findings, err = t.topo.Check(ctx, t.js)
		}
		mark = t.topo.EffectiveMark(mark, findings)
		return err
	}); err != nil {
		return err
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tKIND\tSTATE\tFIELD\tFOUND\tWANTED")
	good := true
	for _, f := range findings {
		name, kind := f.Stream, "stream"
		if bucket, ok := strings.CutPrefix(name, "KV_"); ok {
			name, kind = bucket, "bucket"
		}
		good = good && (f.State == topology.StateOK || f.State == topology.StateUnknown)
		if len(f.Differences) == 0 {
			fmt.Fprintf(table, "%s\t%s\t%s\n", name, kind, f.State)
		}
		for _, d := range f.Differences {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", name, kind, f.State, d.Field, d.Found, d.Wanted)
		}
	}
	_ = table.Flush() // into memory
	fmt.Fprintf(&b, "formats %d in use, this relay writes up to %d\n", mark.Formats, topology.BuildFormats())
	if _, err := io.WriteString(out, b.String()); err != nil {
		return err
	}
	if refused := mark.Refuse(topology.BuildFormats()); refused != nil {
		return refused
	}
	if !good {
		return errTopology
	}
	return nil
}
