package apidocs

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

var (
	id     = regexp.MustCompile(` id="([^"]*)"`)
	href   = regexp.MustCompile(` href="([^"]*)"`)
	active = regexp.MustCompile(`(?i)<script|<style|\sstyle=|\son[a-z]+=|javascript:|<img|<iframe|<form|src=`)
)

// Every link on every page leads to a page or an anchor that is there, no anchor is there twice, and nothing on them
// needs more than the policy allows.
func TestPagesHoldTogether(t *testing.T) {
	t.Parallel()
	const base = "/base"
	pages, err := New("https://relay.test" + base)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for path, page := range pages.byPath {
		for _, found := range id.FindAllSubmatch(page.Body, -1) {
			anchor := path + "#" + string(found[1])
			if anchors[anchor] {
				t.Errorf("%s is there twice", anchor)
			}
			anchors[anchor] = true
		}
	}
	links := 0
	for path, page := range pages.byPath {
		if !strings.HasPrefix(page.ContentType, "text/html") {
			continue
		}
		if found := active.Find(page.Body); found != nil {
			t.Errorf("%s has %s", path, found)
		}
		for _, found := range href.FindAllSubmatch(page.Body, -1) {
			links++
			target, anchor, anchored := strings.Cut(string(found[1]), "#")
			if target == "" {
				target = base + path
			}
			to, within := strings.CutPrefix(target, base)
			_, served := pages.Page(to)
			elsewhere := strings.HasPrefix(to, "/problems/") || strings.HasPrefix(to, "/schemas/")
			if !within || !served && !elsewhere {
				t.Errorf("%s links to %s, which is not there", path, found[1])
			} else if anchored && !anchors[to+"#"+anchor] {
				t.Errorf("%s links to the anchor %s, which is not there", path, found[1])
			}
		}
	}
	if links < 200 {
		t.Errorf("only %d links were found", links)
	}
}

func TestDocumentsHaveTheAddress(t *testing.T) {
	t.Parallel()
	for address, server := range map[string]string{"https://relay.test/base": "https://relay.test/base", "": "/"} {
		pages, err := New(address)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Servers []struct{ URL string } }
		page, _ := pages.Page(JSONPath)
		if err := json.Unmarshal(page.Body, &doc); err != nil {
			t.Fatal(err)
		}
		if len(doc.Servers) != 1 || doc.Servers[0].URL != server {
			t.Errorf("with the address %q the servers are %v", address, doc.Servers)
		}
		if page, _ := pages.Page(DocsPath); address != "" && strings.Contains(string(page.Body), "relay.example.com") {
			t.Error("the reference has the address of the example")
		}
	}
}
