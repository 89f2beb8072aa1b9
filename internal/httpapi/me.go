package httpapi

import (
	"context"
	"net/http"
)

// GetMe implements GET /v1/me.
func (a *API) GetMe(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(_ context.Context, c caller) (reply, error) {
		if c.isAdmin() {
			return reply{body: Me{Role: CallerRoleAdmin, Name: c.admin}}, nil
		}
		return reply{body: Me{Role: CallerRole(c.key.Role), Key: keyView(c.key), Client: clientView(c.client), Quotas: a.quotas(c.client)}}, nil
	})
}
