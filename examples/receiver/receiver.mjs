// A complete receiver of the relay's callbacks in Node 18 or newer, without packages:
//
//   WEBHOOK_SECRET=whsec_… node receiver.mjs [127.0.0.1:3000 [receiver-data]]
//
// WEBHOOK_SECRET may hold several secrets, separated by spaces: the new and the old one while they are exchanged.

import { createHmac, timingSafeEqual } from "node:crypto";
import * as fs from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

const path = "/hooks/audatex";
const largestBody = 16 * 1024 * 1024;
const tolerance = 5 * 60; // seconds between the time of the attempt and our clock

const secrets = (process.env.WEBHOOK_SECRET ?? "").split(/\s+/).filter((text) => text.startsWith("whsec_"))
  .map((text) => Buffer.from(text.slice("whsec_".length), "base64"));
if (secrets.length === 0) {
  console.error("WEBHOOK_SECRET has no secret: whsec_…, as shown when the callback was made");
  process.exit(1);
}

/** Verifies a delivery, stores it if it is new, and returns the status to answer with. */
async function receive(request) {
  if (request.url !== path) return 404;
  if (request.method !== "POST") return 405;
  const body = await read(request); // the bytes as they came: the signature is of these
  if (body === null) return 413;
  if (!verify(request.headers, body)) return 401;
  let event;
  try {
    event = JSON.parse(body.toString("utf8"));
  } catch {
    return 400;
  }
  if (typeof event?.type !== "string" || typeof event.subject !== "string") return 400;
  if (event.test) return 204; // a test of the callback: nothing happened to an order
  if (!event.type.startsWith("audatex.parts.order.")) {
    console.error(event.type, event.subject); // what the relay reports of itself, if the callback asks for it
    return 204;
  }
  if (!/^[0-9]{16}$/.test(event.sequence) || !/^[0-9a-f-]{1,64}$/.test(event.subject)) return 400;
  if (storeIfNewer(event, body)) setImmediate(work);
  return 204; // stored, or known already. The work comes later: the relay waits for this answer
}

async function read(request) {
  if (Number(request.headers["content-length"]) > largestBody) return null;
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > largestBody) return null;
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Reports whether one of the signatures was made with one of our secrets, a short time ago. */
function verify(headers, body) {
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^[0-9]{1,12}$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > tolerance) return false;
  return secrets.some((secret) => {
    const hmac = createHmac("sha256", secret).update(`${headers["webhook-id"]}.${timestamp}.`).update(body);
    const expected = Buffer.from("v1," + hmac.digest("base64"));
    return (headers["webhook-signature"] ?? "").split(" ").some((text) => {
      const signature = Buffer.from(text);
      return signature.length === expected.length && timingSafeEqual(signature, expected);
    });
  });
}

// The store: one file for each order, replaced as a whole. It is here so that the example needs no database, and
// survives the end of the program at any moment, but not every power cut. In your program these are three statements of
// SQL: docs/receiving.md has them.
const directory = process.argv[3] ?? "receiver-data";
const sequences = join(directory, "sequences"); // of each order's newest event
const waiting = join(directory, "waiting"); // that event, until it has been worked on
fs.mkdirSync(sequences, { recursive: true });
fs.mkdirSync(waiting, { recursive: true });

/**
 * The whole rule against repeats, late arrivals and replays: an event is stored if its sequence is above that of its
 * order. Sequences have sixteen digits, so they compare as text. Nothing else runs meanwhile: there is no await.
 */
function storeIfNewer(event, body) {
  const file = join(sequences, event.subject);
  if (fs.existsSync(file) && event.sequence <= fs.readFileSync(file, "utf8")) return false;
  replace(join(waiting, event.subject), body);
  replace(file, event.sequence); // after the event: a crash between them repeats the event, and loses nothing
  return true;
}

function replace(file, content) {
  const made = join(directory, "new");
  const descriptor = fs.openSync(made, "w");
  fs.writeFileSync(descriptor, content);
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
  fs.renameSync(made, file);
}

let working = false;
let again = false;

/** Works on the newest event of each order that has one waiting, also on those from before a restart. */
async function work() {
  again = true;
  if (working) return;
  working = true;
  try {
    while (again) {
      again = false;
      for (const subject of fs.readdirSync(waiting)) await workOn(join(waiting, subject));
    }
  } catch (error) {
    console.error(error); // the directory cannot be read: within a minute again
  }
  working = false;
}

async function workOn(file) {
  try {
    const event = JSON.parse(fs.readFileSync(file, "utf8"));
    await handle(event);
    const newest = JSON.parse(fs.readFileSync(file, "utf8"));
    if (newest.sequence === event.sequence) fs.unlinkSync(file); // if a newer one has come, it still waits
  } catch (error) {
    console.error(error); // this order is worked on again within a minute; the others go on
  }
}

/** Your part: bring the order in your system to this state. It may be called twice for one event. */
async function handle(event) {
  const order = event.data.order;
  console.log(event.type, event.site, order.OrderReference, order.Status);
}

const server = createServer({ requestTimeout: 30_000 }, async (request, response) => {
  let status = 503; // if the store fails, for example: the relay sends the event again
  try {
    status = await receive(request);
  } catch (error) {
    console.error(error);
  }
  if (status === 413) response.setHeader("Connection", "close");
  response.writeHead(status).end();
});
const address = process.argv[2] ?? "127.0.0.1:3000";
const colon = address.lastIndexOf(":");
server.listen(Number(address.slice(colon + 1)), address.slice(0, colon), () => {
  console.error(`listening on http://${address.slice(0, colon)}:${server.address().port}${path}`);
  work();
  setInterval(work, 60_000);
});
