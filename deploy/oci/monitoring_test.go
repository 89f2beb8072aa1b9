package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	compose "github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// TestComposeShowsTheRelay holds Prometheus and Grafana beside the relay to the files that they are given: each path
// that is named is mounted, and each address is a service.
func TestComposeShowsTheRelay(t *testing.T) {
	t.Parallel()
	deploy := secretsMade(t)
	for _, dir := range []string{"prometheus", "grafana"} {
		if err := os.CopyFS(filepath.Join(deploy, dir), os.DirFS(filepath.Join("..", dir))); err != nil {
			t.Fatal(err)
		}
	}
	project, err := load(t, deploy, "AUDATEX_CLIENT_ID=test", "COMPOSE_PROFILES=monitoring")
	if err == nil {
		project, err = project.WithProfiles([]string{"monitoring"})
	}
	if err != nil {
		t.Fatal(err)
	}
	prometheus, ok := project.Services["prometheus"]
	grafana, also := project.Services["grafana"]
	if !ok || !also {
		t.Fatalf("services %v", project.ServiceNames())
	}
	for _, service := range []compose.ServiceConfig{prometheus, grafana} {
		if !service.ReadOnly || !slices.Contains(service.CapDrop, "ALL") ||
			!slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may do more than it needs", service.Name)
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d is open to the network", service.Name, port.Target)
			}
		}
		if tag := service.Image[strings.LastIndex(service.Image, ":")+1:]; tag == "latest" ||
			!strings.Contains(tag, ".") {
			t.Errorf("%s runs whatever version there is: %s", service.Name, service.Image)
		}
	}
	// inside returns the file here that a container sees at a path.
	inside := func(service compose.ServiceConfig, path string) string {
		for _, v := range service.Volumes {
			if rest, ok := strings.CutPrefix(path, v.Target+"/"); ok && v.Type == compose.VolumeTypeBind {
				return filepath.Join(v.Source, rest)
			}
		}
		t.Errorf("%s: nothing is mounted at %s", service.Name, path)
		return ""
	}
	read := func(path string, into any) {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err == nil {
			err = yaml.Unmarshal(raw, into)
		}
		if err != nil {
			t.Error(err)
		}
	}

	var config struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	file := inside(prometheus, strings.TrimPrefix(prometheus.Command[0], "--config.file="))
	read(file, &config)
	if len(config.ScrapeConfigs) != 1 || config.ScrapeConfigs[0].StaticConfigs[0].Targets[0] != "relay:9464" {
		t.Errorf("Prometheus scrapes %+v", config.ScrapeConfigs)
	}
	for _, pattern := range config.RuleFiles {
		if found, err := filepath.Glob(filepath.Join(filepath.Dir(file), pattern)); err != nil || len(found) == 0 {
			t.Errorf("Prometheus finds no rules: %s", pattern)
		}
	}

	provisioning := inside(grafana, *grafana.Environment["GF_PATHS_PROVISIONING"])
	var sources struct{ Datasources []struct{ URL string } }
	read(filepath.Join(provisioning, "datasources", "prometheus.yaml"), &sources)
	if len(sources.Datasources) != 1 || sources.Datasources[0].URL != "http://prometheus:9090" {
		t.Errorf("Grafana asks %+v", sources)
	}
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	read(filepath.Join(provisioning, "dashboards", "relay.yaml"), &providers)
	if len(providers.Providers) != 1 {
		t.Fatalf("Grafana reads %+v", providers)
	}
	shown, err := filepath.Glob(filepath.Join(inside(grafana, providers.Providers[0].Options.Path+"/."), "*.json"))
	if err != nil || len(shown) != 3 {
		t.Errorf("Grafana shows %v", shown)
	}
	if _, err := os.Stat(inside(grafana,
		*grafana.Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])); err != nil {
		t.Error(err)
	}
}
