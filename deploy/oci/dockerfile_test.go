package main

import (
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// stages reads the Dockerfile with the parser of the engine that builds it.
func stages(t *testing.T) []instructions.Stage {
	t.Helper()
	f, err := os.Open("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parsed, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	return stages
}

// dockerfile returns the configuration of the image that the Dockerfile makes, for the version of the tests.
func dockerfile(t *testing.T) v1.Config {
	t.Helper()
	all := stages(t)
	last := all[len(all)-1]
	if last.BaseName != "scratch" {
		t.Errorf("the image stands on %s", last.BaseName)
	}
	c := v1.Config{ExposedPorts: map[string]struct{}{}, Volumes: map[string]struct{}{}, Labels: map[string]string{}}
	for _, command := range last.Commands {
		switch i := command.(type) {
		case *instructions.UserCommand:
			c.User = i.User
		case *instructions.WorkdirCommand:
			c.WorkingDir = i.Path
		case *instructions.EntrypointCommand:
			c.Entrypoint = i.CmdLine
			if i.PrependShell {
				t.Error("ENTRYPOINT wants a shell, and the image has none")
			}
		case *instructions.CmdCommand:
			c.Cmd = i.CmdLine
		case *instructions.EnvCommand:
			for _, pair := range i.Env {
				c.Env = append(c.Env, pair.Key+"="+pair.Value)
			}
		case *instructions.ExposeCommand:
			for _, port := range i.Ports {
				c.ExposedPorts[port+"/tcp"] = struct{}{}
			}
		case *instructions.VolumeCommand:
			for _, volume := range i.Volumes {
				c.Volumes[volume] = struct{}{}
			}
		case *instructions.LabelCommand:
			for _, pair := range i.Labels {
				c.Labels[pair.Key] = strings.Trim(pair.Value, `"`)
			}
		}
	}
	return c
}

// The Dockerfile and this program make the same image.
func TestDockerfileAgreesWithTheArchive(t *testing.T) {
	t.Parallel()
	file, err := imageFor(t, index(t), "linux/"+runtime.GOARCH).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	archive, docker := file.Config, dockerfile(t)
	equal := func(what string, same bool, a, b any) {
		if !same {
			t.Errorf("%s: %v in the archive, %v in the Dockerfile", what, a, b)
		}
	}
	equal("user", archive.User == docker.User, archive.User, docker.User)
	equal("working directory", archive.WorkingDir == docker.WorkingDir, archive.WorkingDir, docker.WorkingDir)
	equal("entry point", slices.Equal(archive.Entrypoint, docker.Entrypoint), archive.Entrypoint, docker.Entrypoint)
	equal("command", slices.Equal(archive.Cmd, docker.Cmd), archive.Cmd, docker.Cmd)
	equal("environment", slices.Equal(archive.Env, docker.Env), archive.Env, docker.Env)
	equal("ports", maps.Equal(archive.ExposedPorts, docker.ExposedPorts), archive.ExposedPorts, docker.ExposedPorts)
	equal("volumes", maps.Equal(archive.Volumes, docker.Volumes), archive.Volumes, docker.Volumes)
	for name, value := range archive.Labels {
		switch name {
		case "org.opencontainers.image.version", "org.opencontainers.image.revision": // of the build
			if docker.Labels[name] == "" {
				t.Errorf("label %s is not in the Dockerfile", name)
			}
		default:
			equal("label "+name, docker.Labels[name] == value, value, docker.Labels[name])
		}
	}
	equal("number of labels", len(archive.Labels) == len(docker.Labels), archive.Labels, docker.Labels)
}

// The image that builds has the Go that this module wants, which is the newest that anything in it wants. It would load
// no other.
func TestDockerfileBuildsWithAGoThatIsNewEnough(t *testing.T) {
	t.Parallel()
	module, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(module)
	if base := stages(t)[0].BaseName; wanted == nil || base != "golang:"+string(wanted[1])+"-bookworm" {
		t.Errorf("the Dockerfile builds with %s, and go.mod wants %q", base, wanted)
	}
}

// The files that are copied are those of the archive, and the binary is built in the same way.
func TestDockerfileCopiesAndBuildsTheSame(t *testing.T) {
	t.Parallel()
	all := stages(t)
	copied := map[string]string{}
	for _, command := range all[len(all)-1].Commands {
		if c, ok := command.(*instructions.CopyCommand); ok {
			copied[c.DestPath] = c.Chown
		}
	}
	want := map[string]string{"/" + rootsPath: "", "/" + binaryPath: "", "/" + dataPath: "65532:65532"}
	if !maps.Equal(copied, want) {
		t.Errorf("copied with owners: %v, not %v", copied, want)
	}
	var runs strings.Builder
	for _, command := range all[0].Commands {
		if r, ok := command.(*instructions.RunCommand); ok {
			runs.WriteString(strings.Join(r.CmdLine, " ") + "\n")
		}
	}
	space := regexp.MustCompile(`[\s\\"]+`)
	line := space.ReplaceAllString(runs.String(), " ")
	for _, flag := range append(buildFlags("$VERSION"), "CGO_ENABLED=0", "./cmd/relay", "-roots /root-fs/"+rootsPath) {
		if !strings.Contains(line, flag) {
			t.Errorf("the Dockerfile does not build with %s:\n%s", flag, runs.String())
		}
	}
}
