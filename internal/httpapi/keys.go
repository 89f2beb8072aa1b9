package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/access"
	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/relay"
)

// The keys of a client are in its document, so whatever decides about one is decided by the
// compare-and-set on that document. A key of the role manage makes and removes keys of the other
// two roles. A key ends with the one that made it: whoever revokes a key that has leaked need not
// look for what was made with it.

// listKeys implements GET /v1/clients/{id}/keys.
func (a *API) listKeys(ctx context.Context, c caller, id Id) (reply, error) {
	client, err := a.clientOf(ctx, c, id)
	if err != nil {
		return reply{}, err
	}
	view := func(k relay.Key) Key { return a.keyView(client, k) }
	return reply{body: KeyList{Items: each.Of(client.Keys, view)}}, nil
}

// createKey implements POST /v1/clients/{id}/keys.
func (a *API) createKey(ctx context.Context, c caller, id Id, _ CreateKeyParams, settings KeySettings) (reply, error) {
	now := time.Now().UTC()
	role := cmp.Or(relay.Role(settings.Role), relay.RoleWrite)
	expires, err := c.expiryOf(settings.ExpiresAt, now)
	if err != nil {
		return reply{}, err
	}
	if !c.isAdmin() && role == relay.RoleManage {
		return reply{}, kindRole.problem("Only an administrator makes keys of the role manage.")
	}
	random := exchangeOf(ctx).maker.bytes("API key", access.KeyBytes)
	text, key := access.KeyOf(random, role, settings.Description, now, expires)
	key.MadeBy = c.key.ID
	err = a.changeKeys(ctx, c, id, func(client relay.Client, keys []relay.Key) ([]relay.Key, error) {
		same := func(k relay.Key) bool { return k.ID == key.ID } // the same request has made it before
		if i := slices.IndexFunc(keys, same); i >= 0 {
			key = keys[i]
			return keys, nil
		}
		if limit := client.Allowed().Keys; len(keys) >= limit {
			return nil, full("keys", len(keys), limit)
		}
		return append(keys, key), nil
	})
	if err != nil {
		return reply{}, err
	}
	created := KeyCreated{
		Id: key.ID, Key: text, Role: KeyRole(key.Role), Description: key.Description,
		CreatedAt: key.CreatedAt, ExpiresAt: timeOf(key.ExpiresAt), MadeBy: key.MadeBy,
	}
	return reply{status: http.StatusCreated, made: "/v1/clients/" + id + "/keys/" + key.ID, body: created}, nil
}

// deleteKey implements DELETE /v1/clients/{id}/keys/{keyId}.
func (a *API) deleteKey(ctx context.Context, c caller, id Id, keyID KeyId) (reply, error) {
	return reply{status: http.StatusNoContent},
		a.changeKeys(ctx, c, id, func(_ relay.Client, keys []relay.Key) ([]relay.Key, error) {
			i := slices.IndexFunc(keys, func(k relay.Key) bool { return k.ID == keyID })
			switch {
			case i < 0:
				return nil, notFound()
			case !c.isAdmin() && keys[i].Role == relay.RoleManage:
				return nil, kindRole.problem("Only an administrator removes keys of the role manage.")
			}
			return slices.DeleteFunc(keys, func(k relay.Key) bool { return k.ID == keyID || k.MadeBy == keyID }), nil
		})
}

// expiryOf returns when a key that the caller makes expires, nil for never. A key of a client makes
// none that outlives it.
func (c caller) expiryOf(wanted, now time.Time) (*time.Time, error) {
	latest := c.key.ExpiresAt // nil for an administrator
	switch {
	case wanted.IsZero():
		return latest, nil
	case !wanted.After(now):
		return nil, invalid(at("/expiresAt", "must lie in the future"))
	case latest != nil && wanted.After(*latest):
		return nil, invalid(at("/expiresAt", "must not be later than %s, when the key that makes it expires",
			latest.Format(time.RFC3339)))
	}
	return new(wanted.UTC()), nil
}

// clientOf returns a client whose keys the caller may see. For a key other clients do not exist.
func (a *API) clientOf(ctx context.Context, c caller, id string) (relay.Client, error) {
	if !c.isAdmin() && id != c.client.ID {
		return relay.Client{}, notFound()
	}
	client, _, err := a.c.Store.Clients.GetAtLeader(ctx, id) // another node may not know the caller's key yet
	if err == nil && !c.isStillOf(client) {
		err = c.gone()
	}
	return client, err
}

// isStillOf reports whether the caller is an administrator, or one of the client's present keys.
func (c caller) isStillOf(client relay.Client) bool {
	return c.isAdmin() || client.Generation == c.client.Generation &&
		slices.ContainsFunc(client.Keys, func(k relay.Key) bool {
			return k.ID == c.key.ID && !k.Expired(time.Now())
		})
}

// changeKeys changes the keys of a client. Edit gets a copy of them. A key that was revoked
// meanwhile, by whichever replica, changes nothing.
func (a *API) changeKeys(
	ctx context.Context, c caller, id string, edit func(relay.Client, []relay.Key) ([]relay.Key, error),
) error {
	if !c.isAdmin() && id != c.client.ID {
		return notFound()
	}
	return a.withClient(ctx, id, func(client relay.Client, revision uint64) error {
		if !c.isStillOf(client) {
			return c.gone()
		}
		var err error
		if client.Keys, err = edit(client, slices.Clone(client.Keys)); err != nil {
			return err
		}
		if revision, err = a.c.Store.Clients.Update(ctx, id, client, revision); err == nil {
			a.c.Keys.Put(client, revision)
		}
		return err
	})
}

func (a *API) keyView(client relay.Client, k relay.Key) Key {
	used, _ := a.c.Keys.LastUsed(client, k.ID) // the zero time is left out
	return Key{
		Id: k.ID, Role: KeyRole(k.Role), Description: k.Description, CreatedAt: k.CreatedAt,
		ExpiresAt: timeOf(k.ExpiresAt), MadeBy: k.MadeBy, LastUsedAt: used,
	}
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
