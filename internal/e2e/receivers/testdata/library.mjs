// Verifies with the public library of Standard Webhooks from npm, at its default tolerance. RELAY_STANDARDWEBHOOKS is
// the directory of the library. It prints a line for each request: the event, its attempt, and which secrets fit.
//
//   node library.mjs SECRET...      receives on a port of its own, and answers 503 to the first attempt of each event
//   node library.mjs                verifies what it reads, a line each: {"at", "secret", "headers", "body"}

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { Webhook } = createRequire(import.meta.url)(process.env.RELAY_STANDARDWEBHOOKS);
const secrets = process.argv.slice(2);
const attempts = new Map();

function outcome(secret, body, headers) {
  try {
    new Webhook(secret).verify(body, headers);
    return "ok";
  } catch (error) {
    return error.message;
  }
}

if (secrets.length > 0) {
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts), event = request.headers["webhook-id"];
    const attempt = (attempts.get(event) ?? 0) + 1;
    attempts.set(event, attempt);
    console.log([event, attempt, ...secrets.map((secret) => outcome(secret, body, request.headers))].join("; "));
    response.writeHead(attempt === 1 ? 503 : 204).end();
  });
  server.listen(0, "127.0.0.1", () => console.error(`http://127.0.0.1:${server.address().port}`));
} else {
  for await (const line of createInterface({ input: process.stdin })) {
    const { at, secret, headers, body } = JSON.parse(line);
    Date.now = () => at * 1000;
    console.log(outcome(secret, Buffer.from(body, "base64"), headers));
  }
}
