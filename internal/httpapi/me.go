package httpapi

import "context"

// getMe implements GET /v1/me.
func (a *API) getMe(_ context.Context, c caller) (reply, error) {
	if c.isAdmin() {
		return reply{body: Me{Role: CallerRoleAdmin, Name: c.admin}}, nil
	}
	return reply{body: Me{Role: CallerRole(c.key.Role), Key: a.keyView(c.client, c.key), Client: clientView(c.client),
		Quotas: a.quotas(c.client)}}, nil
}
