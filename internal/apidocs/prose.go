package apidocs

import (
	"html"
	"html/template"
	"regexp"
	"strings"
)

var (
	code = regexp.MustCompile("`([^`]+)`")
	bold = regexp.MustCompile(`\*\*([^*]+)\*\*`)
)

// prose returns a description as HTML: paragraphs with `code` and **emphasis**, which is all the Markdown that the
// document uses.
func prose(text string) template.HTML {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if paragraph != "" {
			b.WriteString("<p>" + inline(paragraph) + "</p>\n")
		}
	}
	return template.HTML(b.String()) //nolint:gosec // everything is escaped by inline
}

// line is prose without paragraphs.
func line(text string) template.HTML {
	return template.HTML(inline(strings.TrimSpace(text))) //nolint:gosec // everything is escaped by inline
}

func inline(text string) string {
	text = html.EscapeString(text)
	text = code.ReplaceAllString(text, "<code>$1</code>")
	return bold.ReplaceAllString(text, "<strong>$1</strong>")
}
