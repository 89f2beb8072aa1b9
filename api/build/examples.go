package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/audatex-relay/relay/internal/yamljson"
)

// examples are the files of api/examples: of events and problems by their types, and of operations by their ids. An
// operation's example has its parameters by name under path and query, its request, others (more requests, by name,
// each with summary and value), its response, and responses that differ from that by their status. A member { $event:
// type } stands for the event of that type.
type examples struct {
	operations, events, problems node
}

func readExamples(dir string) (examples, error) {
	files, err := filepath.Glob(filepath.Join(dir, "examples", "*.yaml"))
	if err != nil {
		return examples{}, err
	}
	all := examples{operations: object(), events: object(), problems: object()}
	for _, file := range files {
		of, err := parse(file)
		if err != nil {
			return examples{}, err
		}
		into := all.operations
		switch filepath.Base(file) {
		case "events.yaml":
			into = all.events
		case "problems.yaml":
			into = all.problems
		}
		into.Content = append(into.Content, of.Content...)
	}
	walk(all.operations, func(n node) {
		for i, child := range n.Content {
			if typ := yamljson.Get(child, "$event"); typ != nil {
				event := yamljson.Get(all.events, typ.Value)
				if event == nil {
					err = fmt.Errorf("there is no example of an event of the type %s", typ.Value)
					return
				}
				n.Content[i] = clone(event)
			}
		}
	})
	return all, err
}

// exampleDetails returns the details of the examples of operational events by their types.
func exampleDetails(dir string) ([]byte, error) {
	all, err := readExamples(dir)
	if err != nil {
		return nil, err
	}
	var lines []string
	members(all.events, func(typ string, event node) {
		if details := yamljson.Get(event, "data", "details"); details != nil {
			lines = append(lines, fmt.Sprintf("  %q: %s", typ, compact(details)))
		}
	})
	return []byte("{\n" + strings.Join(lines, ",\n") + "\n}\n"), nil
}

// addExamples adds to each operation the examples of its request and its response, and the call as a
// command; to the response for problems one example for each type of problem; to what a callback
// receives one for each type of event.
//
// An operation without an example is left without one: a test in api/ names it.
func addExamples(doc node, all examples) {
	members(yamljson.Get(doc, "paths"), func(path string, item node) {
		members(item, func(method string, op node) {
			if id := yamljson.Get(op, "operationId"); id != nil {
				example := yamljson.Get(all.operations, id.Value)
				if example == nil {
					example = object()
				}
				if yamljson.Get(example, "request") == nil {
					if sent := sent(doc, op); sent != nil {
						example = clone(example)
						set(example, "request", sent)
					}
				}
				answer(doc, op, example)
				request(doc, op, example)
				set(op, "x-codeSamples", list(object("lang", "Shell", "label", "curl",
					"source", command(doc, path, method, item, op, example))))
			}
		})
	})
	events := object()
	members(all.events, func(typ string, event node) { set(events, typ, object("value", event)) })
	members(yamljson.Get(doc, "webhooks"), func(_ string, item node) {
		members(yamljson.Get(item, "post", "requestBody", "content"), func(_ string, content node) {
			set(content, "examples", clone(events))
		})
	})
	problems := object()
	members(all.problems, func(slug string, problem node) { set(problems, slug, object("value", problem)) })
	members(yamljson.Get(doc, "components", "responses", "AnyProblem", "content"), func(_ string, content node) {
		set(content, "examples", problems)
	})
}

// sent returns the first example of a request that the source itself has, or nil.
func sent(doc, op node) (example node) {
	members(yamljson.Get(resolve(doc, yamljson.Get(op, "requestBody")), "content"), func(_ string, content node) {
		members(yamljson.Get(content, "examples"), func(_ string, of node) {
			if example == nil {
				example = yamljson.Get(of, "value")
			}
		})
		if example == nil {
			example = yamljson.Get(content, "example")
		}
	})
	return example
}

func request(doc, op, example node) {
	body := yamljson.Get(example, "request")
	if body == nil {
		return
	}
	in := yamljson.Get(op, "requestBody")
	if yamljson.Get(in, "$ref") != nil { // shared by operations whose examples differ
		in = clone(resolve(doc, in))
		set(op, "requestBody", in)
	}
	members(yamljson.Get(in, "content"), func(_ string, content node) {
		others := yamljson.Get(example, "others")
		switch {
		case yamljson.Get(content, "examples") != nil:
		case others != nil: // the first is the one of the command
			all := object("usual", object("summary", "Usual", "value", clone(body)))
			members(others, func(name string, of node) { set(all, name, clone(of)) })
			set(content, "examples", all)
		default:
			set(content, "example", clone(body))
		}
	})
}

// answer adds the example of the response to each success that has a body.
func answer(doc, op, example node) {
	body := yamljson.Get(example, "answer")
	if body == nil {
		return
	}
	responses := yamljson.Get(op, "responses")
	members(responses, func(status string, response node) {
		if !strings.HasPrefix(status, "2") && yamljson.Get(example, status) == nil {
			return
		}
		if yamljson.Get(response, "$ref") != nil {
			response = clone(resolve(doc, response))
			set(responses, status, response)
		}
		members(yamljson.Get(response, "content"), func(mediaType string, content node) {
			value := body
			if special := yamljson.Get(example, status); special != nil {
				value = special
			}
			if strings.HasPrefix(mediaType, "text/html") {
				value = text("<!doctype html>…")
			}
			if yamljson.Get(content, "examples") == nil {
				set(content, "example", clone(value))
			}
		})
	})
}

// command returns the call of an operation as a command for a shell.
func command(doc node, path, method string, item, op, example node) string {
	members(yamljson.Get(example, "path"), func(name string, v node) {
		path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(v.Value))
	})
	var query []string
	members(yamljson.Get(example, "query"), func(name string, v node) {
		query = append(query, name+"="+strings.ReplaceAll(url.QueryEscape(v.Value), "%2C", ","))
	})
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	lines := []string{"curl " + shell(publicURL+path)}
	if method != "get" && (method != "post" || yamljson.Get(example, "request") == nil) {
		lines[0] = "curl -X " + strings.ToUpper(method) + " " + shell(publicURL+path)
	}
	if token := token(doc, op); token != "" {
		lines = append(lines, `-H "Authorization: Bearer $`+token+`"`)
	}
	for _, list := range []node{yamljson.Get(item, "parameters"), yamljson.Get(op, "parameters")} {
		if list == nil {
			continue
		}
		for _, parameter := range list.Content {
			if yamljson.Text(yamljson.Get(resolve(doc, parameter), "name")) == "Idempotency-Key" {
				lines = append(lines, `-H "Idempotency-Key: $(uuidgen)"`)
			}
		}
	}
	if body := yamljson.Get(example, "request"); body != nil {
		mediaType := "application/json"
		if method == "patch" {
			mediaType = "application/merge-patch+json"
		}
		lines = append(lines, fmt.Sprintf("-H 'Content-Type: %s'", mediaType), "-d "+shell(compact(body)))
	}
	return strings.Join(lines, " \\\n  ")
}

// token returns the name of the variable with what the operation wants in Authorization.
func token(doc, op node) string {
	security := yamljson.Get(op, "security")
	if security == nil {
		security = yamljson.Get(doc, "security")
	}
	switch {
	case security == nil || len(security.Content) == 0:
		return ""
	case index(security.Content[0], "admin") >= 0:
		return "RELAY_ADMIN_TOKEN"
	}
	return "RELAY_API_KEY"
}

// shell quotes a word where a shell needs that.
func shell(word string) string {
	if !strings.ContainsAny(word, " '\"\\$&?*{}[]();<>|`!#~") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
