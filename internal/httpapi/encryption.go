package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// GetEncryptionKeys implements GET /v1/encryption-keys.
func (a *API) GetEncryptionKeys(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(context.Context, caller) (reply, error) {
		s := a.c.Encryption()
		if s.CheckedAt.IsZero() {
			return reply{}, &problem{kind: kindBusy, detail: "The secrets in the store were not counted yet.",
				retryAfter: 5 * time.Second}
		}
		id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
		body := EncryptionKeys{CheckedAt: s.CheckedAt, Writing: id(s.Writing), Through: s.Through(), Left: s.Left}
		body.Keys = make([]EncryptionKey, len(s.Keys))
		for i, k := range s.Keys {
			body.Keys[i] = EncryptionKey{Id: id(k.ID), Secrets: k.Secrets, Use: s.Use(k)}
		}
		return reply{body: body}, nil
	})
}
