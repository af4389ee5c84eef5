// Writes ten records and reads them with a consumer group. Node 18 or later, nothing to install.
//
//     node produce-and-consume.mjs TOPIC GROUP
//
// OTTLA_BOOTSTRAP names brokers, with commas between them; any broker takes any request.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const [topic, group] = process.argv.slice(2);
if (!group) throw new Error("usage: node produce-and-consume.mjs TOPIC GROUP");
const brokers = (
  process.env.OTTLA_BOOTSTRAP ??
  "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"
).split(",");
let broker = 0;

/**
 * Sends one request until it is answered, to one broker after the other.
 *
 * Sending it again is safe because it says the same each time: a produce has its Idempotency-Key,
 * and a poll its member and ack. Without these, only a problem whose `outcome` is `not_applied`
 * could be sent again: what is not answered may have been done.
 */
async function send(method, path, document, headers = {}) {
  const deadline = Date.now() + 60_000;
  let failure;
  for (let attempt = 1; Date.now() < deadline; attempt += 1) {
    try {
      const response = await fetch(brokers[broker] + path, {
        method,
        headers: { "Content-Type": "application/json", ...headers },
        body: document && JSON.stringify(document),
        redirect: "error",
        signal: AbortSignal.timeout(30_000),
      });
      const text = await response.text();
      const answer = { status: response.status, document: text ? JSON.parse(text) : null };
      if (response.status !== 421 && response.status !== 429 && response.status < 500) {
        return answer;
      }
      failure = text;
    } catch (error) {
      failure = error.cause ?? error; // Refused, cut off, or silent for too long.
    }
    broker = (broker + 1) % brokers.length;
    if (attempt % brokers.length === 0) await sleep(100);
  }
  throw new Error(`no broker answered ${method} ${path} in time: ${failure}`);
}

function expect200(answer) {
  if (answer.status !== 200) throw new Error(JSON.stringify(answer.document));
  return answer.document;
}

// --- produce --------------------------------------------------------------------------------

const count = 10;
for (let number = 0; number < count; number += 1) {
  const record = { key: `gate-${number % 3}`, value: `departure-${number}` };
  // One key for each record, and the same one for each attempt.
  const headers = { "Idempotency-Key": randomUUID() };
  expect200(await send("POST", `/v1/topics/${topic}/records`, { records: [record] }, headers));
}
console.log(`produced ${count} records`);

// --- consume --------------------------------------------------------------------------------

// The member's id is chosen here, so that a poll whose answer was lost leaves no second member.
const member = randomUUID();
const poll = (ack, max_wait_ms) =>
  send("POST", `/v1/groups/${group}/poll`, {
    topics: [topic], member_id: member, ack, max_wait_ms,
  });

let ack = null;
for (let read = 0; read < count; ) {
  const answer = await poll(ack, 5_000);
  if (answer.status === 409) {
    ack = null; // The member was gone for too long: what it had not acknowledged comes again.
    continue;
  }
  const polled = expect200(answer);
  for (const record of polled.records) {
    console.log(`read ${record.value}`);
    read += 1;
  }
  ack = polled.ack; // Done with all of it, which the next poll says.
}
expect200(await poll(ack, 0));

// Leave, so that others need not wait for the end of the session.
await send("DELETE", `/v1/groups/${group}/members/${member}`);
