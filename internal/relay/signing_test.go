package relay

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// However secrets are rotated and ended: each signs until the moment that its rotation has set, no
// matter what comes after, and what is refused changes nothing.
func TestSecretsSignAsLongAsPromised(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var c CallbackSecrets
		present, until := "", map[string]time.Time{} // until when the older ones sign
		secret := rapid.Map(rapid.IntRange(1, 9), func(n int) string { return fmt.Sprintf("whsec_%d", n) })
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3600).Draw(t, "seconds")) * time.Second)
			maps.DeleteFunc(until, func(_ string, end time.Time) bool { return !now.Before(end) })
			one := secret.Draw(t, "secret")
			if rapid.Bool().Draw(t, "rotate") {
				overlap := time.Duration(rapid.IntRange(0, 7200).Draw(t, "overlap")) * time.Second
				next := maps.Clone(until)
				if present != "" && present != one && overlap > 0 {
					next[present] = now.Add(overlap)
				}
				delete(next, one)
				err := c.Rotate(one, overlap, now)
				switch full := len(next)+1 > MaxSigningSecrets && present != one; {
				case full != errors.Is(err, ErrTooManySecrets):
					t.Fatalf("rotated to %d secrets: %v", len(next)+1, err)
				case !full && present != one:
					present, until = one, next
				}
			} else {
				_, older := until[one]
				switch err := c.EndSecret(SigningSecret{Secret: one}.Fingerprint(), now); {
				case older && err == nil:
					delete(until, one)
				case one == present && errors.Is(err, ErrPresentSecret),
					!older && one != present && errors.Is(err, ErrNoSecret):
				default:
					t.Fatalf("ended %s: %v", one, err)
				}
			}
			want := append(slices.Collect(maps.Keys(until)), present)
			var got []string
			for i, s := range c.SigningAt(now) {
				got = append(got, s.Secret)
				if (i == 0) != (s.ExpiresAt == nil) || i > 0 && !s.ExpiresAt.Equal(until[s.Secret]) {
					t.Fatalf("%s signs until %v, want %v", s.Secret, s.ExpiresAt, until[s.Secret])
				}
			}
			if present == "" {
				want = want[:0]
			}
			slices.Sort(want)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("%v sign, want %v", got, want)
			}
		}
	})
}
