package receivers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// language is one of the languages in which there is an example.
type language struct {
	name string
	// needs are its programs; install is the command that brings them to Debian.
	needs   []string
	install string
	// build makes what commands need in a directory; nil if there is nothing to make.
	build func(t *testing.T, dir string)
	// commands returns the programs of the receiver, of which the first listens. Built is what build made things in,
	// and data where the receiver may keep what it knows.
	commands func(built, address, data string) [][]string
	// feed returns the program that reads the feed. Next is the file in which it keeps where it is.
	feed func(built, next string) []string
}

var languages = []language{
	{
		name: "csharp", needs: []string{"mono", "mcs"},
		install: "apt-get install --no-install-recommends mono-runtime mono-mcs " +
			"libmono-system-runtime-serialization4.0-cil",
		build: func(t *testing.T, dir string) {
			t.Helper()
			// The language as the compiler that comes with Windows understands it.
			for _, source := range []string{example("Receiver.cs"), pulling("Feed.cs")} {
				out := filepath.Join(dir, strings.TrimSuffix(filepath.Base(source), ".cs")+".exe")
				must(t, "mcs", "-langversion:5", "-warnaserror",
					"-r:System.Runtime.Serialization.dll", "-out:"+out, source)
			}
		},
		commands: func(built, address, data string) [][]string {
			return [][]string{{"mono", filepath.Join(built, "Receiver.exe"), address, data}}
		},
		feed: func(built, next string) []string { return []string{"mono", filepath.Join(built, "Feed.exe"), next} },
	},
	{
		name: "go", needs: []string{"go"}, install: "apt-get install golang",
		build: func(t *testing.T, dir string) {
			t.Helper()
			for _, name := range []string{"receiver", "feed"} {
				if err := harness.Build(t.Context(), filepath.Join("..", "..", ".."), "./examples/"+name,
					filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		},
		commands: func(built, address, data string) [][]string {
			return [][]string{{filepath.Join(built, "receiver"), address, data}}
		},
		feed: func(built, next string) []string { return []string{filepath.Join(built, "feed"), next} },
	},
	{
		name: "node", needs: []string{"node"}, install: "apt-get install --no-install-recommends nodejs",
		commands: func(_, address, data string) [][]string {
			return [][]string{{"node", example("receiver.mjs"), address, data}}
		},
		feed: func(_, next string) []string { return []string{"node", pulling("feed.mjs"), next} },
	},
	{
		name: "php", needs: []string{"php"}, install: "apt-get install --no-install-recommends php-cli php-sqlite3",
		build: func(t *testing.T, _ string) {
			t.Helper()
			if out, err := exec.CommandContext(t.Context(), "php", "-r",
				`exit(extension_loaded("pdo_sqlite") ? 0 : 1);`).CombinedOutput(); err != nil {
				lacking(t, "php", "pdo_sqlite", "apt-get install --no-install-recommends php-sqlite3", out)
			}
		},
		commands: func(_, address, data string) [][]string {
			script, database := example("receiver.php"), "RECEIVER_DB="+filepath.Join(data, "receiver.db")
			settings := []string{"env", database, "php", "-d", "post_max_size=17M", "-d", "display_errors=0"}
			return [][]string{append(settings, "-S", address, script), {"env", database, "php", script}}
		},
		feed: func(_, next string) []string { return []string{"php", pulling("feed.php"), next} },
	},
	{
		name: "python", needs: []string{"python3"}, install: "apt-get install --no-install-recommends python3",
		commands: func(_, address, data string) [][]string {
			return [][]string{{"python3", example("receiver.py"), address, filepath.Join(data, "receiver.db")}}
		},
		feed: func(_, next string) []string { return []string{"python3", pulling("feed.py"), next} },
	},
}

// example returns the path of a receiver, and pulling that of a program that reads the feed.
func example(name string) string {
	return filepath.Join("..", "..", "..", "examples", "receiver", name)
}

func pulling(name string) string { return filepath.Join("..", "..", "..", "examples", "feed", name) }

// find skips the test if the language is not on this machine.
func (l language) find(t *testing.T) {
	t.Helper()
	for _, program := range l.needs {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, l.name, program, l.install, nil)
		}
	}
}

// wanted is the variable with which nothing is skipped.
const wanted = "RELAY_RECEIVERS_WANTED"

func lacking(t *testing.T, language, what, install string, said []byte) {
	t.Helper()
	message := fmt.Sprintf("the receiver in %s needs %s, which is not here: %s\n"+
		"(.ci/run receivers gets everything that these tests need) %s",
		language, what, install, said)
	if os.Getenv(wanted) == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
}

// must runs a command that must succeed.
func must(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
