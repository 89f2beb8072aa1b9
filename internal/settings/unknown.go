package settings

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/audatex-relay/relay/internal/relay"
)

// Unknown is a variable of the environment that looks like a setting and is none.
type Unknown struct{ Name, Nearest string }

const variablePrefix = "RELAY_"

// serviceLink matches what Kubernetes sets in every pod for a service whose name begins with
// "relay", as a release of the chart's has: RELAY_SERVICE_HOST, RELAY_NATS_SERVICE_PORT_CLIENT,
// RELAY_PORT_8080_TCP_ADDR. The other form, RELAY_PORT, is recognized by its value.
var serviceLink = regexp.MustCompile(
	`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// UnknownVariables finds the variables that are no settings, with the setting that each may have
// been meant for. No value is looked at but for the address of a service link.
func UnknownVariables(environ, known []string) []Unknown {
	var unknown []Unknown
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		upper := strings.ToUpper(name)
		if !strings.HasPrefix(upper, variablePrefix) || slices.Contains(known, name) {
			continue
		}
		if serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && isServiceAddress(value) {
			continue
		}
		unknown = append(unknown, Unknown{name, nearest(upper, known)})
	}
	slices.SortFunc(unknown, func(a, b Unknown) int { return strings.Compare(a.Name, b.Name) })
	return unknown
}

func isServiceAddress(value string) bool {
	scheme, _, found := strings.Cut(value, "://")
	return found && (scheme == "tcp" || scheme == "udp" || scheme == "sctp")
}

// nearest is the known name that takes the fewest changes. Words that stand in it count for more
// than its length.
func nearest(name string, known []string) string {
	best, least := "", 0
	for _, candidate := range known {
		a, b := strings.TrimPrefix(name, variablePrefix), strings.TrimPrefix(candidate, variablePrefix)
		d := 2 * relay.EditDistance(a[:min(len(a), 64)], b)
		plain := strings.ReplaceAll(a, "_", "")
		part := plain != "" && strings.Contains(strings.ReplaceAll(b, "_", ""), plain)
		if part || strings.HasPrefix(a, b) || hasWords(b, a) {
			d = 1 + max(len(b)-len(a), len(a)-len(b))/4
		}
		if best == "" || d < least {
			best, least = candidate, d
		}
	}
	return best
}

// hasWords reports whether all words of a name, of which there are several, are words of another in
// the same order.
func hasWords(name, words string) bool {
	all := strings.Split(words, "_")
	left := all
	for word := range strings.SplitSeq(name, "_") {
		if len(left) > 0 && word == left[0] {
			left = left[1:]
		}
	}
	return len(left) == 0 && len(all) > 1
}

// HideAddresses takes arguments and values of settings that look like addresses out of an error
// line about the command line, which quotes them: a line that was split at a blank shows the
// password of the part behind it.
func HideAddresses(line string, args, environ []string) string {
	for _, given := range slices.Concat(args, environ) {
		value := given
		_, v, found := strings.Cut(given, "=")
		if found && (strings.HasPrefix(given, "-") || strings.HasPrefix(given, variablePrefix)) {
			value = v
		}
		for _, part := range append(strings.Split(value, ","), value) {
			if !strings.ContainsAny(part, "@/") {
				continue
			}
			quoted := strconv.Quote(part)
			line = strings.ReplaceAll(line, part, "[hidden]")
			line = strings.ReplaceAll(line, quoted[1:len(quoted)-1], "[hidden]")
		}
	}
	return line
}
