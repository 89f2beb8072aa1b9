package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var o options
	flag.StringVar(&o.source, "source", "../..", "root of the relay's repository")
	flag.StringVar(&o.out, "out", "", "archive to write")
	flag.StringVar(&o.platforms, "platforms", "linux/amd64,linux/arm64", "platforms, by commas")
	flag.StringVar(&o.version, "version", "", "version of the relay; what git describe says by default")
	flag.StringVar(&o.roots, "roots", "", "write only the bundle of certificate authorities to this file")
	flag.Parse()
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
}

type options struct {
	source, out, platforms, version, roots string
}

func run(ctx context.Context, o options) error {
	if o.roots != "" {
		return os.WriteFile(o.roots, roots(), 0o644) //nolint:gosec // certificates are for everybody
	}
	if o.out == "" {
		return fmt.Errorf("-out is missing: name the archive to write")
	}
	source, err := filepath.Abs(o.source)
	if err != nil {
		return err
	}
	build, err := describe(ctx, source, o.version)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "relay-oci")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()

	binaries := map[string][]byte{}
	for platform := range strings.SplitSeq(o.platforms, ",") {
		binary, err := compile(ctx, source, platform, build.version, filepath.Join(scratch, "relay"))
		if err != nil {
			return err
		}
		binaries[platform] = binary
	}
	index, err := assemble(binaries, build)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := archive(index, o.out, build); err != nil {
		return err
	}
	fmt.Printf("%s: %s, %s\n", o.out, build.version, digest)
	return nil
}

// origin is where an image comes from, as its labels have it.
type origin struct {
	version  string
	revision string // the commit; empty outside a repository
	time     time.Time
}

// describe asks git, and SOURCE_DATE_EPOCH where there is no repository (a source archive).
func describe(ctx context.Context, source, version string) (origin, error) {
	git := func(args ...string) string {
		//nolint:gosec // fixed arguments
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", source}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	o := origin{version: version, revision: git("rev-parse", "HEAD")}
	if o.version == "" {
		o.version = git("describe", "--tags", "--always", "--dirty")
	}
	if o.version == "" {
		return origin{}, fmt.Errorf("%s is not a git repository: give -version", source)
	}
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if seconds == "" {
		seconds = git("log", "-1", "--format=%ct")
	}
	if seconds == "" {
		seconds = "0"
	}
	epoch, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return origin{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	o.time = time.Unix(epoch, 0).UTC()
	return o, nil
}

// buildFlags are those of the Dockerfile. The zones' data goes into the binary: an image from scratch has none.
func buildFlags(version string) []string {
	return []string{"-trimpath", "-buildvcs=false", "-tags", "timetzdata", "-ldflags",
		"-s -w -X main.version=" + version}
}

func compile(ctx context.Context, source, platform, version, out string) ([]byte, error) {
	system, arch, ok := strings.Cut(platform, "/")
	if !ok || system != "linux" {
		return nil, fmt.Errorf("platform %q is not linux/amd64 or the like", platform)
	}
	args := append([]string{"build", "-o", out}, buildFlags(version)...)
	//nolint:gosec // what is built is this repository
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/relay")...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build for %s: %w\n%s", platform, err, output)
	}
	return os.ReadFile(out)
}
