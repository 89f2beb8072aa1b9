package audatex

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"html"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
)

// maxDescribed bounds how much of a response is examined for a description.
const maxDescribed = 16 << 10

// describe describes a response that is not what was requested, or returns "" if it is JSON. Of
// JSON it only quotes the message of an error, because it may be an order: only what is meant for
// people is quoted.
func describe(body []byte) string {
	body = trimJSON(body)
	switch {
	case len(body) == 0:
		return "nothing"
	case json.Valid(body):
		if said := message([]byte(jsonMessage(body)), relay.Secret{}); said != "" && body[0] == '{' {
			return "an error: " + quote(said)
		}
		return ""
	case body[0] == '<':
		return describeMarkup(body)
	case body[0] == '{' || body[0] == '[' || body[0] == '"':
		return "JSON that is cut or damaged"
	}
	if text := message(body[:min(len(body), maxDescribed)], relay.Secret{}); text != "" {
		return "text: " + quote(text)
	}
	return "bytes that are no text"
}

// describeMarkup describes HTML by its title, and XML by its root or, if it is an error, by its
// message.
func describeMarkup(body []byte) string {
	if isHTML(body) {
		if title := htmlTitle(body); title != "" {
			return "HTML: " + quote(title)
		}
		return "HTML"
	}
	root, text := xmlMessage(body)
	switch {
	case root == "":
		return "something like XML that cannot be read"
	case text != "":
		return "XML (" + root + "), although JSON was asked for: " + quote(text)
	}
	return "XML (" + root + "), although JSON was asked for; does a proxy take away the Accept header?"
}

// refusalText returns the text of a refusal: the message of a JSON or XML error, the title of a
// page, or the text itself.
func refusalText(body []byte) []byte {
	body = trimJSON(body)
	body = body[:min(len(body), maxOtherBody)]
	switch {
	case len(body) == 0:
		return nil
	case body[0] == '{' || body[0] == '"':
		if text := jsonMessage(body); text != "" {
			return []byte(text)
		}
	case body[0] == '<' && isHTML(body):
		if title := htmlTitle(body); title != "" {
			return []byte(title)
		}
	case body[0] == '<':
		if _, text := xmlMessage(body); text != "" {
			return []byte(text)
		}
	}
	return body
}

// errorMembers are the members of JSON errors that describe the error, the most useful first: those
// of ASP.NET, which adds the others only if it shows details, those of OAuth, and those of problem
// documents.
var errorMembers = []string{"Message", "ExceptionMessage", "MessageDetail", "error_description", "detail", "title",
	"error"}

// jsonMessage returns the message of a JSON error, or "". An error may be a string, or nested in
// "error".
func jsonMessage(body []byte) string {
	for range 3 {
		if len(body) > 0 && body[0] == '"' {
			return text(body)
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(body, &members) != nil {
			return ""
		}
		found := make([]string, len(errorMembers))
		var inner json.RawMessage
		for name, value := range members {
			for i, known := range errorMembers {
				if !strings.EqualFold(name, known) {
					continue
				}
				if found[i] = text(value); len(value) > 0 && value[0] == '{' {
					inner = value
				}
			}
		}
		if said := slices.DeleteFunc(found[:3:3], func(text string) bool { return text == "" }); len(said) > 0 {
			return strings.Join(said, " ")
		}
		if said := cmp.Or(found[3:]...); said != "" {
			return said
		}
		body = inner
	}
	return ""
}

var (
	doctypeHTML = regexp.MustCompile(`(?i)<(!doctype\s+html|html|head|body|title)[\s>]`)
	titleHTML   = regexp.MustCompile(`(?is)<(?:title|h1|h2)[^>]*>(.*?)<`)
)

// isHTML reports whether markup is a page for people.
func isHTML(body []byte) bool { return doctypeHTML.Match(body[:min(len(body), maxDescribed)]) }

// htmlTitle returns the title, or the first heading, of a page.
func htmlTitle(body []byte) string {
	for _, found := range titleHTML.FindAllSubmatch(body[:min(len(body), maxDescribed)], 8) {
		if title := message([]byte(html.UnescapeString(string(found[1]))), relay.Secret{}); title != "" {
			return title
		}
	}
	return ""
}

// xmlMessage returns the name of a document's root, "" if there is none, and the message if the
// document is an error: the texts of its elements Message, ExceptionMessage and MessageDetail.
func xmlMessage(body []byte) (root, said string) {
	d := newXMLDecoder(body[:min(len(body), maxDescribed)])
	d.Strict = false
	var texts []string
	name := ""
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch token := token.(type) {
		case xml.StartElement:
			if name = token.Name.Local; root == "" {
				root = message([]byte(name), relay.Secret{})
			}
		case xml.CharData:
			if text := message(token, relay.Secret{}); text != "" && isErrorMember(name) {
				texts = append(texts, text)
			}
		case xml.EndElement:
			name = ""
		}
	}
	if !strings.Contains(strings.ToLower(root), "error") && !strings.Contains(strings.ToLower(root), "fault") {
		return root, ""
	}
	return root, strings.Join(texts, " ")
}

func isErrorMember(name string) bool {
	return slices.ContainsFunc(append(errorMembers[:3:3], "faultstring", "Text"),
		func(known string) bool { return strings.EqualFold(name, known) })
}

// newXMLDecoder returns a decoder for possible XML. It ignores the declared encoding, because the
// text is already UTF-8.
func newXMLDecoder(body []byte) *xml.Decoder {
	d := xml.NewDecoder(bytes.NewReader(body))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	return d
}
