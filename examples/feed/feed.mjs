// Reads the relay's feed of events, for a program that cannot be called. Node 18 or newer, no packages:
//
//   RELAY_URL=https://relay.example.com RELAY_KEY=… node feed.mjs [feed-next]
//
// feed-next is the file that keeps where we are.

import * as fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Your part: store the event if its `sequence` is above that of its `subject` (docs/receiving.md has the statement). It
 * gets the events of an order in their order. If the program ends before `next` is stored, they come again.
 */
async function handle(event) {
  if (!event.type.startsWith("audatex.parts.order.")) return;
  const order = event.data.order;
  console.log(event.type, event.site, order.OrderReference, order.Status);
}

/** Asks for the next page. The relay waits for half a minute if there is no event yet. */
function read(after) {
  const query = new URLSearchParams({ waitSeconds: "30", ...(after && { after }) });
  return fetch(`${process.env.RELAY_URL}/v1/events?${query}`, {
    headers: { Authorization: `Bearer ${process.env.RELAY_KEY}` },
    signal: AbortSignal.timeout(60_000),
  });
}

function save(after) {
  const descriptor = fs.openSync(`${file}.new`, "w");
  fs.writeFileSync(descriptor, after);
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
  fs.renameSync(`${file}.new`, file);
}

const file = process.argv[2] ?? "feed-next";
let after = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : ""; // without one: the oldest event that is kept
for (;;) {
  let wait = 5;
  try {
    const response = await read(after);
    if (response.ok) {
      const page = await response.json();
      for (const event of page.items) await handle(event);
      after = page.next;
      save(after);
      continue;
    }
    console.error(response.status, await response.text());
    if (response.status === 401 || response.status === 403) process.exit(1); // the key is wrong, revoked or expired
    if (response.status === 410) after = ""; // the log no longer has what follows: read GET /v1/orders as well
    wait = Number(response.headers.get("retry-after")) || wait;
  } catch (error) {
    console.error(error); // no answer, or an event that could not be handled: the same page again
  }
  await sleep(wait * 1000);
}
