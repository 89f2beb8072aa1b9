package relay

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// RedactionMark replaces the hidden parts of a callback's URL.
const RedactionMark = "[redacted]"

// plainWords are the words that may be shown in a path. They name an endpoint or its version and
// cannot be a secret. Any other word could be a token, so it is hidden.
var plainWords = strings.Fields(`
	api app apps audatex axis bms callback callbacks catch cloudevents connector connectors create default demo
	deliveries delivery endpoint endpoints event events execute external feed function functions gateway handler
	handlers hook hooks http https in inbound inbox incoming ingest ingress inpart input integration integrations
	internal invoke json listen listener live manual message messages notification notifications notify order orders
	part parts paths post prod production public push queue receive receiver relay rest run sandbox service services
	site sites stage staging status subscribe subscription subscriptions test trigger triggers update updates web
	webhook webhooks workflow workflows`)

var version = regexp.MustCompile(`^v[0-9]{1,2}$`)

// maxPlain is the length of the longest segment that is shown. A longer one may be a passphrase,
// even if it is made of common words.
const maxPlain = 40

// SetURL sets the address that deliveries go to. A URL may carry a token in its path or query, so
// it is kept with the secrets.
func (c *Callback) SetURL(raw string) {
	c.Secrets.URL, c.ShownURL = raw, RedactURL(raw)
}

// RedactURL returns the part of a callback's URL that may be shown to everybody: scheme, host,
// port, and the path segments made of common words such as hooks, orders or v1. The user, all other
// segments, the query and the fragment are replaced by RedactionMark. A text that is not a URL is
// hidden completely.
func RedactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return RedactionMark
	}
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.User != nil {
		b.WriteString(RedactionMark + "@")
	}
	b.WriteString(u.Host)
	for i, segment := range strings.Split(u.EscapedPath(), "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		if isPlain(segment) {
			b.WriteString(segment)
		} else {
			b.WriteString(RedactionMark)
		}
	}
	if u.RawQuery != "" {
		b.WriteString("?" + RedactionMark)
	}
	if u.Fragment != "" {
		b.WriteString("#" + RedactionMark)
	}
	return b.String()
}

// isPlain reports whether a path segment may be shown: it is empty, or short and made of common
// words.
func isPlain(segment string) bool {
	words := strings.FieldsFunc(strings.ToLower(segment), func(c rune) bool { return c == '-' || c == '_' || c == '.' })
	for _, word := range words {
		if !version.MatchString(word) && !slices.Contains(plainWords, word) {
			return false
		}
	}
	return segment == "" || len(words) > 0 && len(segment) <= maxPlain
}

// IsRedacted reports whether a text contains RedactionMark, percent-encoded or not. Such a text was
// copied from a place where URLs are shown without their secrets; it is not an address.
func IsRedacted(raw string) bool {
	text := strings.ToLower(raw)
	for range 3 { // the client may have encoded it more than once
		if strings.Contains(text, RedactionMark) {
			return true
		}
		text = strings.NewReplacer("%5b", "[", "%5d", "]", "%25", "%").Replace(text)
	}
	return false
}

// URLSecrets returns the parts of a callback's URL that RedactURL hides, both as written and
// decoded, the longest first. A response that repeats one of them must not be stored.
func URLSecrets(raw string) []string {
	u, err := url.Parse(raw)
	if err != nil {
		return []string{raw}
	}
	var secrets []string
	add := func(texts ...string) {
		for _, text := range texts {
			if text != "" && !slices.Contains(secrets, text) {
				secrets = append(secrets, text)
			}
		}
	}
	if u.User != nil {
		password, _ := u.User.Password()
		add(u.User.String(), u.User.Username(), password)
	}
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		if !isPlain(segment) {
			decoded, _ := url.PathUnescape(segment)
			add(segment, decoded)
		}
	}
	add(u.RawQuery)
	for pair := range strings.FieldsFuncSeq(u.RawQuery, func(c rune) bool { return c == '&' || c == ';' }) {
		value := pair // a token by itself, as in ?token
		if name, after, ok := strings.Cut(pair, "="); ok {
			value = cmp.Or(after, name)
		}
		decoded, _ := url.QueryUnescape(value)
		add(value, decoded)
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}
