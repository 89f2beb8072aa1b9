package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
)

// A new operator gets from nothing to ten connected sites by docs/connecting.md alone: its commands
// are typed into one shell, from top to bottom, and the test is the ten users who are sent a link.
// Only ports, and how the program is built, are others.
func TestANewOperatorConnectsTenSites(t *testing.T) {
	t.Parallel()
	blocks := commandsOf(t, "docs/connecting.md", 10)
	dir := t.TempDir()
	if err := os.Symlink(relayBinary(t), filepath.Join(dir, "relay")); err != nil {
		t.Fatal(err)
	}
	replace := []string{"go build -o relay ./cmd/relay", ":", "RELAY_PUBLIC_URL=",
		"RELAY_CALLBACK_ALLOW_CIDRS=127.0.0.0/8\nRELAY_POLL_INTERVAL=1s\nRELAY_PUBLIC_URL="}
	for _, port := range []string{"8080", "8090", "9464"} {
		replace = append(replace, "127.0.0.1:"+port, freeAddress(t))
	}
	shell := startShell(t, dir)
	var connected string
	for _, block := range blocks {
		out := shell.run(strings.NewReplacer(replace...).Replace(block))
		switch {
		case strings.Contains(block, "/v1/consent-links -H"):
			if n := strings.Count(out, "/consent/"); n != 10 {
				t.Fatalf("%d links were made:\n%s", n, out)
			}
			consentAll(t, filepath.Join(dir, "links.json"))
			harness.Eventually(t, "all are active", func() string { // as somebody who looks again does
				if out := shell.run(
					`api "$RELAY/v1/connections?state=active" | jq '.items | length'`); strings.TrimSpace(out) != "10" {
					return out
				}
				return ""
			})
		case strings.Contains(block, "state=active"):
			if connected = strings.Join(strings.Fields(out),
				" "); connected != "filey hull leeds malton ripon selby skipton thirsk whitby york" {
				t.Errorf("who has consented: %s", out)
			}
		case strings.Contains(block, "event.json; do"):
			if strings.TrimSpace(out) != "audatex.parts.order.created york REHEARSAL-1" {
				t.Errorf("what arrives: %s", out)
			}
		case strings.Contains(block, "/v1/callbacks"):
			if !strings.Contains(out, "whsec_") {
				t.Errorf("the callback: %s", out)
			}
		}
	}
	if connected == "" {
		t.Error("nothing says who has consented")
	}
}

// consentAll does what the users do who are sent the links.
func consentAll(t *testing.T, file string) {
	t.Helper()
	var links struct {
		Items []struct{ Connection, URL string }
	}
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &links)
	}
	if err != nil {
		t.Fatal(err)
	}
	sites := map[string]string{}
	raw, err = os.ReadFile(filepath.Join(filepath.Dir(file), "sites.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		number, name, _ := strings.Cut(strings.TrimSpace(line), ",")
		sites[name] = number
	}
	for _, link := range links.Items {
		consent(t, link.URL, sites[link.Connection])
	}
}

// consent goes from a link to its result as a browser does.
func consent(t *testing.T, link, site string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	submit := func(address string, form url.Values) (string, *url.URL) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address,
			strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Sec-Fetch-Site", "same-origin")
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), answer.Request.URL
	}
	hidden := func(body string) string {
		t.Helper()
		found := regexp.MustCompile(`name="request" value="([^"]*)"`).FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("site %s: the portal's page has no request: %s", site, body)
		}
		return strings.NewReplacer("&amp;", "&", "&#43;", "+", "&#34;", `"`).Replace(found[1])
	}
	body, portal := submit(link, url.Values{"begin": {"1"}})
	action := func(body string) string {
		t.Helper()
		found := regexp.MustCompile(`action="([^"]*)"`).FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("site %s: the portal's page has no form: %s", site, body)
		}
		to, err := portal.Parse(strings.ReplaceAll(found[1], "&amp;", "&"))
		if err != nil {
			t.Fatal(err)
		}
		return to.String()
	}
	body, _ = submit(action(body), url.Values{"request": {hidden(body)}, "CompanyCode": {"C" + site},
		"UserName": {"bms." + site}, "Password": {"sandbox"}})
	form := url.Values{"request": {hidden(body)}, "decision": {"allow"}}
	for _, scope := range regexp.MustCompile(`name="grant" value="([^"]*)"`).FindAllStringSubmatch(body, -1) {
		form.Add("grant", scope[1])
	}
	if body, _ = submit(action(body), form); !strings.Contains(body, "Connected: ") {
		t.Fatalf("site %s: the consent ends at %s", site, body)
	}
}
