// Publish events to RabbitMQ with the official JavaScript SDK (npm: cloudevents, amqplib): publish.js URL EXCHANGE KEY
"use strict";
const amqp = require("amqplib");
const { CloudEvent, HTTP, Kafka } = require("cloudevents");

const TIME = "2026-11-18T11:06:40.000Z";
const EVENTS = {
  object: [{ image_id: 7, ratio: 1.5 }, { subject: "image/7" }],
  extensions: [{}, { relevourgency: "high", partitionkey: "cat 7", tenant: "eu", subject: "a/b/c.jpg" }],
  json: [[1, { two: null }], {}],
  text: ['café "7"', { datacontenttype: "text/plain" }],
  bytes: [new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x00, 0xff]), { datacontenttype: "image/png" }],
  nothing: [undefined, { datacontenttype: undefined }],
};
const MODES = { structured: HTTP.structured, binary: HTTP.binary, kafka: Kafka.binary };

function* messages() {
  for (const [name, [data, given]] of Object.entries(EVENTS)) {
    for (const [mode, toMessage] of Object.entries(MODES)) {
      const event = new CloudEvent({
        id: `${name} ${mode}`,
        type: "image.created",
        source: "/sdk/javascript",
        time: TIME,
        datacontenttype: "application/json",
        ...given,
        data,
      });
      const { headers, body } = toMessage(event);
      // the binding for Kafka leaves objects to its user
      const isText = typeof body === "string" || body === undefined;
      const isBytes = body instanceof Uint8Array;
      yield [headers, Buffer.from(isText ? body ?? "" : isBytes ? body : JSON.stringify(body))];
    }
  }
}

async function main([url, exchange, key]) {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  let count = 0;
  for (const [headers, body] of messages()) {
    const contentType = headers["content-type"];
    // half of them with the content type among the headers alone
    channel.publish(exchange, key, body, { headers, contentType: count % 2 ? contentType : undefined, mandatory: true });
    count += 1;
  }
  await channel.waitForConfirms();
  await connection.close();
  console.log(count);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
