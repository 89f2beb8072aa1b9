package charts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What stands in values reaches the program as it is, whatever YAML, Helm's templates and Kubernetes make of such
// texts.
func TestValuesReachTheProgramAsTheyAre(t *testing.T) {
	t.Parallel()
	odd := []string{
		"$", "$$", "a$b", "$(HOME)", "$$(HOME)", "$(RELAY_HTTP_ADDR)", "${HOME}", "$(", "a$(b", "x$", "$$$(OTHER)$",
		"true", "no", "null", "~", "0123", "1e6", "1000000", "1_000", "0x10", "-", "a: b", "a #b", "# a", "'", `"`,
		`\n`, `a\`, "a\nb\n", "\ta ", " ", "{{ .Values }}", "{{ fail \"x\" }}", "{a: b}", "[a]", "&a", "*a", "!a",
		"|", "> a", "%a", "@a", "`a`",
		"a,b", "a;b", "ä€", "2026-01-01", "=", "<<", "a=b",
	}
	// One release has them all: the first as the client id, the others in variables of their own.
	var extra []map[string]string
	for i, text := range odd {
		extra = append(extra, map[string]string{"name": "ODD_" + strconv.Itoa(i), "value": text})
	}
	want := map[string]string{
		"RELAY_AUDATEX_CLIENT_ID": "id$(HOME)$$: '{{ x }}'\n# \"", "RELAY_AUDATEX_TIMEZONE": "0123",
		"RELAY_CALLBACK_PROXY": "http://us$er:p$$a$(HOME)@[fd00::1]:3128/?{{x}}#$",
		"RELAY_NATS_URL":       "tls://[2001:db8::1]:4222,nats://n$ats-1,[::1]",
		"RELAY_PUBLIC_URL":     "https://relay.example.com/$$/$(HOME)",
		"RELAY_AUDATEX_SCOPES": "$(HOME),1e6,true", "RELAY_AUDATEX_RATE": "1000000",
		"RELAY_AUDATEX_BASE_URL": "https://[2001:db8::2]/a$b?c='d'",
	}
	for _, e := range extra {
		want[e["name"]] = e["value"]
	}
	env := environment(t, map[string]any{
		"secrets": map[string]any{
			"adminToken": map[string]any{"secretName": "relay"}, "audatexClientSecret": map[string]any{
				"secretName": "relay"}, "encryptionKeys": map[string]any{"secretName": "relay"},
		},
		"audatex": map[string]any{
			"clientId": want["RELAY_AUDATEX_CLIENT_ID"], "timezone": "0123",
			"scopes": []string{"$(HOME)", "1e6", "true"}, "rate": 1000000,
			"baseUrl": want["RELAY_AUDATEX_BASE_URL"],
		},
		"callbacks": map[string]any{"proxy": want["RELAY_CALLBACK_PROXY"]},
		"nats":      map[string]any{"url": want["RELAY_NATS_URL"]},
		"publicUrl": want["RELAY_PUBLIC_URL"],
		"extraEnv":  extra,
	})
	for name, value := range want {
		if got, ok := env[name]; !ok || got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
}

// environment is what the program finds with these values: rendered by Helm, with what Kubernetes replaces.
func environment(t *testing.T, values map[string]any) map[string]string {
	t.Helper()
	raw, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "tool", "helm", "template", "relay", chart, "--namespace", "1e3",
		"--kube-version", "1.30.0", "-f", file)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	env := map[string]string{"HOME": "/home/expanded"}
	found := false
	for document := range strings.SplitSeq(string(out), "\n---\n") {
		var d struct {
			Kind     string
			Metadata struct{ Namespace any }
			Spec     struct {
				Template struct {
					Spec struct {
						Containers []struct {
							Env []struct{ Name, Value string }
						}
					}
				}
			}
		}
		if err := yaml.Unmarshal([]byte(document), &d); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if d.Metadata.Namespace != "1e3" {
			t.Errorf("%s: the namespace is %#v", d.Kind, d.Metadata.Namespace)
		}
		if d.Kind != "Deployment" {
			continue
		}
		found = true
		for _, e := range d.Spec.Template.Spec.Containers[0].Env {
			env[e.Name] = expand(e.Value, env)
		}
	}
	if !found {
		t.Fatal("there is no Deployment")
	}
	return env
}

// expand does with a value what the kubelet does (k8s.io/kubernetes/third_party/forked/golang/expansion): $(NAME) is
// replaced where NAME is known, $$ is $.
func expand(value string, env map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] != '$' || i+1 == len(value) {
			b.WriteByte(value[i])
			continue
		}
		i++
		switch end := strings.IndexByte(value[i:], ')'); {
		case value[i] == '$':
			b.WriteByte('$')
		case value[i] == '(' && end > 0:
			name := value[i+1 : i+end]
			if known, ok := env[name]; ok {
				b.WriteString(known)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += end
		default:
			b.WriteString("$" + value[i:i+1])
		}
	}
	return b.String()
}
