package main

import (
	"testing"

	"github.com/alecthomas/kong"

	"github.com/audatex-relay/relay/internal/settings"
)

func TestAVariableThatIsNoSettingIsToldWithTheNearest(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&commands{}, kong.Vars{"version": "x"})
	if err != nil {
		t.Fatal(err)
	}
	known := variables(parser.Model)
	for name, nearest := range map[string]string{
		"RELAY_POLLINTERVAL":              "RELAY_POLL_INTERVAL",
		"RELAY_POLL_INTERVALL":            "RELAY_POLL_INTERVAL",
		"Relay_Poll_Interval":             "RELAY_POLL_INTERVAL",
		"RELAY_NATS_URLS":                 "RELAY_NATS_URL",
		"RELAY_CLIENT_SECRET":             "RELAY_AUDATEX_CLIENT_SECRET",
		"RELAY_AUDATEX_SECRET":            "RELAY_AUDATEX_CLIENT_SECRET",
		"RELAY_AUDATEX_SECRET_FILE":       "RELAY_AUDATEX_CLIENT_SECRET_FILE",
		"RELAY_AUDATEX_ID":                "RELAY_AUDATEX_CLIENT_ID",
		"RELAY_NATS_CERTIFICATE":          "RELAY_NATS_CERT",
		"RELAY_AUDATEX_POLL_INTERVAL":     "RELAY_POLL_INTERVAL",
		"RELAY_AUDATEX_CLIENTSECRET_FILE": "RELAY_AUDATEX_CLIENT_SECRET_FILE",
		"RELAY_AUDATEX_CLIENT_ID_FILE":    "RELAY_AUDATEX_CLIENT_ID",
		"RELAY_NATS_URL_FILE":             "RELAY_NATS_URL",
		"RELAY_ENCRYPTION_KEY":            "RELAY_ENCRYPTION_KEYS",
		"RELAY_ADMINTOKEN":                "RELAY_ADMIN_TOKEN",
		"RELAY_LOGLEVEL":                  "RELAY_LOG_LEVEL",
		"RELAY_PROXY":                     "RELAY_CALLBACK_PROXY",
		"RELAY_RETRIES_SCHEDULE":          "RELAY_RETRY_SCHEDULE",
		"RELAY_CALLBACKS_ALLOW_CIDR":      "RELAY_CALLBACK_ALLOW_CIDRS",
		"RELAY_HTTP_ADDRESS":              "RELAY_HTTP_ADDR",
	} {
		got := settings.UnknownVariables([]string{"PATH=/bin", name + "=hush", "RELAY_POLL_INTERVAL=1s"}, known)
		if len(got) != 1 || got[0].Name != name || got[0].Nearest != nearest {
			t.Errorf("%s: %v, want %s", name, got, nearest)
		}
	}
	links := []string{
		"RELAY_SERVICE_HOST=10.0.0.1", "RELAY_SERVICE_PORT=8080", "RELAY_SERVICE_PORT_HTTP=8080",
		"RELAY_PORT=tcp://10.0.0.1:8080", "RELAY_PORT_8080_TCP=tcp://10.0.0.1:8080",
		"RELAY_PORT_8080_TCP_PROTO=tcp", "RELAY_PORT_8080_TCP_PORT=8080", "RELAY_PORT_8080_TCP_ADDR=10.0.0.1",
		"RELAY_NATS_SERVICE_HOST=10.0.0.2", "RELAY_NATS_SERVICE_PORT_CLIENT_A=4222",
		"RELAY_NATS_PORT_4222_UDP_ADDR=10.0.0.2", "RELAY_METRICS_PORT=tcp://10.0.0.3:9464",
	}
	if got := settings.UnknownVariables(links, known); len(got) != 0 {
		t.Errorf("variables of Kubernetes are told: %v", got)
	}
	if got := settings.UnknownVariables([]string{"RELAY_PORT=8080", "RELAY_=", "RELAY_X"}, known); len(got) != 3 {
		t.Errorf("%v", got)
	}
	for _, name := range known {
		if got := settings.UnknownVariables([]string{name + "=x"}, known); len(got) != 0 {
			t.Errorf("the setting %s is told as %v", name, got)
		}
	}
}
