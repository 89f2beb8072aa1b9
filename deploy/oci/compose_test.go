package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	compose "github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/conf"
)

// secretsMade runs deploy/compose-secrets for a copy of the deployment, beside which the secrets then lie. The keyset
// comes from a stand-in: the relay's own is tried where the relay is.
func secretsMade(t *testing.T) string {
	t.Helper()
	deploy := filepath.Join(t.TempDir(), "deploy")
	if err := os.CopyFS(filepath.Join(deploy, "nats"), os.DirFS("../nats")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"compose.yaml", "compose-secrets"} {
		data, err := os.ReadFile(filepath.Join("..", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(deploy, name), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(deploy, "compose-secrets"))
	cmd.Env = append(os.Environ(), "RELAY=echo")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compose-secrets: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(deploy, "secrets/audatex-client-secret"),
		[]byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return deploy
}

// load reads the file as docker compose does: against the schema, with its environment and secrets there, normalised
// and consistent.
func load(t *testing.T, deploy string, env ...string) (*compose.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(deploy, "compose.yaml")}, cli.WithEnv(env),
		cli.WithNormalization(true), cli.WithConsistency(true), cli.WithResolvedPaths(true),
		cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(t.Context())
}

func TestComposeWantsTheClientID(t *testing.T) {
	t.Parallel()
	if _, err := load(t, secretsMade(t)); err == nil || !strings.Contains(err.Error(), "AUDATEX_CLIENT_ID") {
		t.Errorf("without AUDATEX_CLIENT_ID: %v", err)
	}
}

// What the environment gives reaches the relay as it is; a password that Compose or NATS would read as something else
// is refused.
func TestComposeTakesValuesAsTheyAre(t *testing.T) {
	t.Parallel()
	deploy := secretsMade(t)
	for _, id := range []string{"a$b", "$$", "${HOME}x", "a'b\"c", "{{ x }}", "0123", "a: b # c", `back\slash`} {
		project, err := load(t, deploy, "AUDATEX_CLIENT_ID="+id)
		if err != nil {
			t.Fatal(err)
		}
		if got := project.Services["relay"].Environment["RELAY_AUDATEX_CLIENT_ID"]; got == nil || *got != id {
			t.Errorf("the client id %q is %v", id, got)
		}
	}
	for _, password := range []string{"pa$$word", "pass word", "5e62", "pass#word", "'password'"} {
		if err := os.WriteFile(filepath.Join(deploy, "secrets/nats-password"),
			[]byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(deploy, "compose-secrets"))
		cmd.Env = append(os.Environ(), "RELAY=echo")
		if out, err := cmd.CombinedOutput(); err == nil ||
			!strings.Contains(string(out), "must be letters and digits") || strings.Contains(string(out), password) {
			t.Errorf("%q: %v %s", password, err, out)
		}
	}
}

func TestComposeRunsTheRelayOnThreeServers(t *testing.T) {
	deploy := secretsMade(t)
	project, err := load(t, deploy, "AUDATEX_CLIENT_ID=test")
	if err != nil {
		t.Fatal(err)
	}
	relay, ok := project.Services["relay"]
	if !ok || len(project.Services) != 4 {
		t.Fatalf("services %v: not the relay and three servers", project.ServiceNames())
	}

	// What the relay is given are settings that it has.
	source, err := os.ReadFile("../../internal/settings/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	for name := range relay.Environment {
		if !strings.Contains(string(source), `env:"`+name+`"`) {
			t.Errorf("%s is no setting of the relay", name)
		}
	}

	// The servers it goes to and waits for are those that are there.
	wanted := "tls://nats-1:4222,tls://nats-2:4222,tls://nats-3:4222"
	if url := relay.Environment["RELAY_NATS_URL"]; url == nil || *url != wanted {
		t.Errorf("RELAY_NATS_URL is not %s", wanted)
	}
	for _, name := range []string{"nats-1", "nats-2", "nats-3"} {
		if relay.DependsOn[name].Condition != compose.ServiceConditionHealthy {
			t.Errorf("the relay does not wait for %s", name)
		}
		checkServer(t, project, name)
	}

	// A secret is named by a path under which it is mounted, and comes from a file that compose-secrets made.
	mounted := map[string]bool{}
	for _, secret := range relay.Secrets {
		mounted["/run/secrets/"+secret.Source] = true
	}
	for name, value := range relay.Environment {
		if (strings.HasSuffix(name, "_FILE") || name == "RELAY_NATS_CA") && !mounted[*value] {
			t.Errorf("%s names %s, which is not mounted", name, *value)
		}
	}
	for name, secret := range project.Secrets {
		info, err := os.Stat(secret.File)
		if err != nil {
			t.Errorf("secret %s: %v", name, err)
			continue
		}
		if info.Mode().Perm()&0o004 == 0 {
			t.Errorf("secret %s: mode %s keeps the container's user from reading it", name, info.Mode())
		}
	}

	// Ports and grace are the image's and the relay's.
	exposed := dockerfile(t).ExposedPorts
	for _, port := range relay.Ports {
		if _, ok := exposed[strconv.Itoa(int(port.Target))+"/tcp"]; !ok {
			t.Errorf("port %d is not exposed by the image", port.Target)
		}
		if port.HostIP != "127.0.0.1" {
			t.Errorf("port %d is open to the network", port.Target)
		}
	}
	grace, err := time.ParseDuration(*relay.Environment["RELAY_SHUTDOWN_GRACE"])
	if err != nil || relay.StopGracePeriod == nil || time.Duration(*relay.StopGracePeriod) != grace+5*time.Second {
		t.Errorf("stop_grace_period is %v, not five seconds above %v", relay.StopGracePeriod, grace)
	}
	for _, service := range project.Services {
		if !service.ReadOnly || !slices.Contains(service.CapDrop, "ALL") ||
			!slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may do more than it needs", service.Name)
		}
	}
}

// checkServer looks at one NATS server: its configuration finds all that it names, and it stores on a volume of its
// own.
func checkServer(t *testing.T, project *compose.Project, name string) {
	t.Helper()
	server := project.Services[name]
	version := regexp.MustCompile(`(?m)nats-server/v2 v(\S+)`)
	module, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if tested := version.FindSubmatch(module); tested == nil || server.Image != "nats:"+string(tested[1])+"-alpine" {
		t.Errorf("%s runs %s, and the relay is tested with %q", name, server.Image, tested)
	}
	for variable, value := range server.Environment {
		t.Setenv(variable, *value)
	}
	parsed, err := conf.ParseFile("../nats/nats.conf")
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if parsed["server_name"] != name {
		t.Errorf("%s calls itself %v", name, parsed["server_name"])
	}
	accounts, _ := parsed["accounts"].(map[string]any)
	relay, _ := accounts["RELAY"].(map[string]any)
	users, _ := relay["users"].([]any)
	if len(users) != 1 {
		t.Fatalf("account RELAY has %d users", len(users))
	}
	user, _ := users[0].(map[string]any)
	password, err := os.ReadFile(project.Secrets["nats-password"].File)
	if err != nil {
		t.Fatal(err)
	}
	if user["user"] != *project.Services["relay"].Environment["RELAY_NATS_USER"] ||
		user["password"] != strings.TrimSpace(string(password)) {
		t.Errorf("%s lets another user in than the relay logs in as", name)
	}
	store := *server.Environment["NATS_STORE"]
	if !slices.ContainsFunc(server.Volumes, func(v compose.ServiceVolumeConfig) bool {
		return v.Type == compose.VolumeTypeVolume && v.Source == name && v.Target == store
	}) {
		t.Errorf("%s does not store on a volume of its own: %v", name, server.Volumes)
	}
	for _, variable := range []string{"NATS_CERT", "NATS_KEY", "NATS_CA"} {
		if !slices.ContainsFunc(server.Secrets, func(s compose.ServiceSecretConfig) bool {
			return "/run/secrets/"+s.Source == *server.Environment[variable]
		}) {
			t.Errorf("%s: %s is not mounted", name, variable)
		}
	}
	if server.HealthCheck == nil ||
		!slices.Contains(server.HealthCheck.Test, "http://127.0.0.1:8222/healthz?js-server-only=true") {
		t.Errorf("%s is not asked whether it is well", name)
	}
}

// What was made once stays: a second run changes no password.
func TestComposeSecretsStay(t *testing.T) {
	t.Parallel()
	deploy := secretsMade(t)
	read := func() map[string]string {
		files := map[string]string{}
		entries, err := os.ReadDir(filepath.Join(deploy, "secrets"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(deploy, "secrets", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = string(data)
		}
		return files
	}
	before := read()
	cmd := exec.Command(filepath.Join(deploy, "compose-secrets"))
	cmd.Env = append(os.Environ(), "RELAY=echo")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compose-secrets: %v\n%s", err, out)
	}
	for name, data := range read() {
		if before[name] != data {
			t.Errorf("%s was made anew", name)
		}
	}
}
