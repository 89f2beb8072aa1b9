// Calls a relay with a client that was generated from the document that this relay serves: makes a client and a key, registers a
// callback by its URL alone, has it tested, and reads the event that was sent by its type. internal/e2e/clients runs it.
import assert from 'node:assert/strict';
import process from 'node:process';

import createClient from 'openapi-fetch';

import type { components, paths } from './relay.js';

const { RELAY_URL: baseUrl = '', RELAY_ADMIN_TOKEN: admin = '', RECEIVER_URL: url = '' } = process.env;

const as = (token: string) => createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const made = await as(admin).PUT('/v1/clients/{id}', { params: { path: { id: 'typescript' } }, body: { allSites: true } });
assert.equal(made.response.status, 201);
const key = await as(admin).POST('/v1/clients/{id}/keys', { params: { path: { id: 'typescript' } }, body: {} });
assert(key.data, JSON.stringify(key.error));

const relay = as(key.data.key);
const callback = await relay.POST('/v1/callbacks', { body: { url } });
assert(callback.data, JSON.stringify(callback.error));
assert.equal(callback.data.concurrency, 4);
assert.equal(callback.data.state, 'active');

const test = await relay.POST('/v1/callbacks/{id}/test', {
  params: { path: { id: callback.data.id } },
  body: { type: 'audatex.parts.order.created' },
});
assert(test.data, JSON.stringify(test.error));
assert.equal(test.data.delivered, true);
assert.deepEqual(parts(test.data.event), ['8K0807065GRU x 1']);

const list = await relay.GET('/v1/callbacks', { params: { query: { limit: 10 } } });
assert.deepEqual(list.data?.items.map((c) => c.id), [callback.data.id]);

const missing = await relay.GET('/v1/callbacks/{id}', { params: { path: { id: 'none' } } });
assert.equal(missing.error?.status, 404);
assert(missing.error.type.endsWith('/problems/not-found'));

const feed = await relay.GET('/v1/events', { params: { query: { types: ['audatex.parts.order.*'] } } });
assert.deepEqual(feed.data?.items, []);

// What an event's data holds is known by its type, and the compiler wants every type to be dealt with.
function parts(event: components['schemas']['Event']): string[] {
  switch (event.type) {
    case 'audatex.parts.order.created':
    case 'audatex.parts.order.updated':
      return (event.data.order.Parts ?? []).map((part) => `${part.OrderedPartNumber} x ${part.Quantity}`);
    default:
      return [event.data.message];
  }
}
