package httpapi

import (
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

const otherSecretText = "whsec_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789+/AbCdE="

// signingOf returns the texts of the secrets that sign for a callback at a time.
func (f *fixture) signingOf(id string, at time.Time) []string {
	f.t.Helper()
	cb, _, err := f.store.Callbacks.Get(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return signingAt(cb, at)
}

// signingAt returns the texts of a callback's secrets that sign at a time.
func signingAt(cb relay.Callback, at time.Time) []string {
	var texts []string
	for _, s := range cb.Secrets.SigningAt(at) {
		texts = append(texts, s.Secret)
	}
	return texts
}

func TestSecretsOfSeveralRotationsSign(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.client("client-a", relay.RoleWrite, "alpha")
	var made Callback
	a.put("/v1/callbacks/cb", map[string]any{"url": "https://bms.example/"}).want(201).into(&made)
	rotate := func(body any) RotatedSecret {
		t.Helper()
		var rotated RotatedSecret
		a.post("/v1/callbacks/cb/rotate-secret", body).want(200).into(&rotated)
		return rotated
	}

	// Every secret signs until its own overlap has passed.
	first, second := rotate(nil), rotate(map[string]any{"overlap": "2h"})
	now := time.Now()
	if got := f.signingOf("cb", now); !slices.Equal(got, []string{second.Secret, first.Secret, made.Secret}) {
		t.Errorf("%d secrets sign after two rotations", len(got))
	}
	if got := f.signingOf("cb", now.Add(3*time.Hour)); !slices.Equal(got, []string{second.Secret, made.Secret}) {
		t.Errorf("%d secrets sign once the overlap of the second rotation has passed", len(got))
	}
	if got := f.signingOf("cb", now.Add(25*time.Hour)); !slices.Equal(got, []string{second.Secret}) {
		t.Errorf("%d secrets sign a day later", len(got))
	}
	if in := second.PreviousExpiresAt.Sub(now); in < time.Hour || in > 3*time.Hour {
		t.Errorf("the secret before ends in %s", in)
	}

	// One that ends at once is not taken for an older one that still signs.
	var ended RotatedSecret
	a.put("/v1/callbacks/ended", map[string]any{"url": "https://bms.example/"}).want(201)
	a.post("/v1/callbacks/ended/rotate-secret", map[string]any{"overlap": "7d"}).want(200)
	a.post("/v1/callbacks/ended/rotate-secret", map[string]any{"overlap": "0s"}).want(200).into(&ended)
	if len(ended.Secrets) != 2 || !ended.PreviousExpiresAt.IsZero() {
		t.Errorf("the secret before ended at once, and is said to sign until %s beside %d secrets",
			ended.PreviousExpiresAt, len(ended.Secrets))
	}

	// They are listed, without their text.
	var view Callback
	listed := a.get("/v1/callbacks/cb").want(200).into(&view)
	if len(view.Secrets) != 3 || !view.Secrets[0].ExpiresAt.IsZero() || view.Secrets[1].ExpiresAt.IsZero() ||
		view.Secrets[2].Fingerprint != (relay.SigningSecret{Secret: made.Secret}).Fingerprint() || view.Secret != "" {
		t.Errorf("listed: %s", listed.body)
	}

	// More than five are refused, and nothing changes.
	rotate(nil)
	last := rotate(nil)
	a.post("/v1/callbacks/cb/rotate-secret", nil).want(409).problem("limit-reached")
	a.put("/v1/callbacks/cb",
		map[string]any{"url": "https://bms.example/", "secret": secretText}).want(409).problem("limit-reached")
	if got := f.signingOf("cb", now); len(got) != relay.MaxSigningSecrets || got[0] != last.Secret {
		t.Errorf("%d secrets sign", len(got))
	}

	// An older one is ended at once, the present one is not.
	old := "/v1/callbacks/cb/secrets/" + (relay.SigningSecret{Secret: made.Secret}).Fingerprint()
	a.delete(old).want(204)
	a.delete(old).want(404)
	a.delete("/v1/callbacks/cb/secrets/" + last.Secrets[0].Fingerprint).want(409).problem("conflict")
	a.delete("/v1/callbacks/cb/secrets/XYZ").want(400)
	if got := f.signingOf("cb", now); len(got) != 4 || slices.Contains(got, made.Secret) {
		t.Errorf("%d secrets sign after one was ended", len(got))
	}

	// An older one is taken back; without an overlap the one before ends now.
	back := rotate(map[string]any{"secret": first.Secret, "overlap": "0s"})
	if got := f.signingOf("cb", now); len(got) != 3 || got[0] != first.Secret || slices.Contains(got, last.Secret) {
		t.Errorf("%d secrets sign after an older one was taken back", len(got))
	}
	if !back.Secrets[0].ExpiresAt.IsZero() {
		t.Error("the secret that was taken back is to end")
	}

	// The present secret: nothing changes.
	if again := rotate(map[string]any{"secret": first.Secret}); len(again.Secrets) != 3 {
		t.Errorf("rotated to itself: %d secrets sign", len(again.Secrets))
	}
	for _, overlap := range []string{"31d", "721h", "999999999d"} {
		a.post("/v1/callbacks/cb/rotate-secret",
			map[string]any{"overlap": overlap}).want(422).problem("invalid-body", "/overlap")
	}
	for _, overlap := range []string{"", "1", "-1h", "1.5h", "1h30m"} {
		a.post("/v1/callbacks/cb/rotate-secret",
			map[string]any{"overlap": overlap}).want(422).problem("invalid-body", "/overlap")
	}
}
