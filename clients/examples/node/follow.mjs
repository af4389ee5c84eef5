// Follows a topic as an event stream. Node 18 or later, nothing to install.
//
//     node follow.mjs TOPIC COUNT
//
// Ends after COUNT records. OTTLA_BOOTSTRAP names brokers, with commas between them.
//
// In a browser, and in a Node that has it, this is all there is to do:
//
//     const events = new EventSource("/v1/topics/flights/records?offset=earliest");
//     events.onmessage = (event) => console.log(JSON.parse(event.data));
//
// The rest is what EventSource does, for a Node without one, and over several brokers: the id of
// each event is the cursor behind it, and whoever sends the last one back goes on there, at any
// broker, without losing or repeating a record.

import { setTimeout as sleep } from "node:timers/promises";

const [topic, count] = process.argv.slice(2);
if (!topic) throw new Error("usage: node follow.mjs TOPIC COUNT");
const brokers = (
  process.env.OTTLA_BOOTSTRAP ??
  "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"
).split(",");
const path = `/v1/topics/${topic}/records?offset=earliest`;

/** The events of one connection, as objects with the fields that they have. */
async function* events(url, lastEventId) {
  const headers = { Accept: "text/event-stream" };
  if (lastEventId) headers["Last-Event-ID"] = lastEventId;
  const response = await fetch(url, { headers, redirect: "error" });
  if (response.status !== 200) {
    const error = new Error(await response.text());
    // 421, 429 and 5xx pass; anything else is wrong with the request, at every broker.
    error.passes = [421, 429].includes(response.status) || response.status >= 500;
    throw error;
  }
  let text = "";
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    const blocks = text.split("\n\n"); // A blank line ends an event.
    text = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":"); // A line that begins with it keeps the connection alive.
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      yield event;
    }
  }
}

async function* follow() {
  let lastEventId = "";
  for (let attempt = 0; ; attempt += 1) {
    try {
      for await (const event of events(brokers[attempt % brokers.length] + path, lastEventId)) {
        if (event.event === "error") break;
        lastEventId = event.id ?? lastEventId;
        if (event.data) yield JSON.parse(event.data);
      }
    } catch (error) {
      if (error.passes === false) throw error;
      console.error(`again at another broker: ${error.cause ?? error}`);
    }
    await sleep(200);
  }
}

let read = 0;
for await (const record of follow()) {
  console.log(`read ${record.value}`);
  read += 1;
  if (read === Number(count)) break;
}
process.exit(0); // The connection would keep the process.
