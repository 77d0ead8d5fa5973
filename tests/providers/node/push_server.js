// A push service on Node's own HTTP/2 stack, which shares no code with ours. It answers as its orders say.
//
// Started with one argument, a JSON object:
//   key, cert      PEM; without them it speaks plain HTTP/1.1
//   http1          true: TLS, but HTTP/1.1 only
//   orders         {"<last part of the path>": order or list of orders, "*": order}; default: status 200
//   verify         PEM of the public key that provider tokens of APNs have to be signed with
//   settings       HTTP/2 settings, such as {"maxConcurrentStreams": 10}
//   sandbox        true: check what APNs would check, and answer 400 with a reason
//   log            true: print each request as a line of JSON
//   hold           true: listen, and never accept the first bytes
// An order: {status, body, fill, headers, delay_ms, gate, rst, goaway, destroy, stall, unread, early, hang_up}. It prints {"port": n}.
// A line of JSON on standard input: {"open": true} answers all that waits at the gate, {"goaway": {...}} sends one,
// {"echo": true} prints {"echo": true}, after all that was printed before.
"use strict";
const crypto = require("node:crypto");
const http = require("node:http");
const http2 = require("node:http2");
const https = require("node:https");
const readline = require("node:readline");

const config = JSON.parse(process.argv[2]);
const sessions = new Set();
let gated = [];
let lastSession = null;
const sockets = new Set();
const destroyAll = () => sockets.forEach((socket) => socket.destroy());
const say = (fact) => process.stdout.write(JSON.stringify(fact) + "\n");

function nextOrder(name) {
  const orders = config.orders || {};
  const found = orders[name] !== undefined ? orders[name] : orders["*"];
  if (Array.isArray(found)) return found.length > 1 ? found.shift() : found[0];
  return found || {};
}

function tokenProblem(authorization) {
  const [scheme, token] = (authorization || "").split(" ");
  if (scheme !== "bearer" || !token) return "MissingProviderToken";
  const [head, claims, signature] = token.split(".");
  const header = JSON.parse(Buffer.from(head, "base64url"));
  const said = JSON.parse(Buffer.from(claims, "base64url"));
  if (header.alg !== "ES256" || !header.kid || !said.iss) return "InvalidProviderToken";
  const key = { key: config.verify, dsaEncoding: "ieee-p1363" };
  const isGood = crypto.verify("sha256", Buffer.from(`${head}.${claims}`), key, Buffer.from(signature, "base64url"));
  return isGood ? "" : "InvalidProviderToken";
}

function problem(headers, body) {
  if (headers[":method"] !== "POST") return "MethodNotAllowed";
  if (!/^\/3\/device\/[0-9a-f]+$/.test(headers[":path"])) return "BadPath";
  if (!headers["apns-topic"]) return "MissingTopic";
  if (!["alert", "background"].includes(headers["apns-push-type"])) return "InvalidPushType";
  if (headers["apns-push-type"] === "background" && headers["apns-priority"] !== "5") return "BadPriority";
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(headers["apns-id"])) return "BadMessageId";
  if (!/^[0-9]+$/.test(headers["apns-expiration"])) return "BadExpirationDate";
  if (Buffer.byteLength(headers["apns-collapse-id"] || "") > 64) return "BadCollapseId";
  if (body.length === 0) return "PayloadEmpty";
  if (body.length > 4096) return "PayloadTooLarge";
  if (typeof JSON.parse(body).aps !== "object") return "PayloadEmpty";
  return config.verify ? tokenProblem(headers.authorization) : "";
}

function bytesOf(body) {
  return typeof body === "string" ? body : body === undefined ? "" : JSON.stringify(body);
}

function goaway(session, order) {
  session.goaway(order.code || 0, order.last === undefined ? 2 ** 31 - 1 : order.last, order.words && Buffer.from(order.words));
}

function onStream(stream, headers) {
  const order = nextOrder(headers[":path"].split("/").pop());
  const session = stream.session;
  stream.on("error", () => {});
  stream.on("close", () => config.log && say({ closed: headers[":path"], code: stream.rstCode }));
  const answer = (body) => {
    if (stream.destroyed || stream.closed) return;
    const reason = config.sandbox ? problem(headers, body) : "";
    const fields = { ":status": order.status || (reason ? 400 : 200), ...(order.headers || {}) };
    if (headers["apns-id"]) fields["apns-id"] = headers["apns-id"];
    stream.respond(fields);
    stream.end(reason ? JSON.stringify({ reason }) : order.fill ? "x".repeat(order.fill) : bytesOf(order.body));
  };
  if (order.early) {
    stream.respond({ ":status": order.early });
    stream.end("{}");
    stream.close(http2.constants.NGHTTP2_NO_ERROR);
    return;
  }
  if (order.unread) return;  // so its window stays shut
  const chunks = [];
  stream.on("data", (chunk) => chunks.push(chunk));
  stream.on("end", () => {
    const body = Buffer.concat(chunks);
    if (config.log) say({ headers, body: body.toString("base64"), session: session.number });
    if (order.goaway) goaway(session, order.goaway);
    if (order.rst !== undefined) return stream.close(order.rst);
    if (order.destroy) return destroyAll();
    if (order.stall) return undefined;
    if (order.gate) return gated.push(() => answer(body));
    if (order.delay_ms) return setTimeout(answer, order.delay_ms, body);
    return answer(body);
  });
}

function onRequest(request, response) {
  const order = nextOrder(request.url.split("/").pop());
  const chunks = [];
  request.on("error", () => {});
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    if (config.log) say({ url: request.url, headers: request.headers, body: body.toString("base64"), session: request.socket.remotePort });
    if (order.destroy) return request.socket.destroy();
    if (order.stall) return undefined;
    const answer = () => {
      response.writeHead(order.status || 200, { "content-type": "application/json", ...(order.headers || {}) });
      response.end(bytesOf(order.body));
      if (order.hang_up) request.socket.end();
    };
    return order.gate ? gated.push(answer) : answer();
  });
}

let server;
if (!config.cert) server = http.createServer(onRequest);
else if (config.http1) server = https.createServer({ key: config.key, cert: config.cert }, onRequest);
else {
  server = http2.createSecureServer({ key: config.key, cert: config.cert, settings: config.settings || {} });
  server.on("session", (session) => {
    session.number = sessions.size;
    sessions.add(session);
    lastSession = session;
    session.on("error", () => {});
    session.on("goaway", (code) => config.log && say({ goaway: code }));
    if (config.log) session.on("ping", () => say({ ping: session.number }));
  });
  server.on("stream", onStream);
}
if (config.hold) {
  server = require("node:net").createServer(() => {});
}
server.on("connection", (socket) => {
  sockets.add(socket);
  socket.on("error", () => {});
  socket.on("close", () => sockets.delete(socket));
});
server.on("tlsClientError", () => {});
server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const order = JSON.parse(line);
  if (order.echo) say({ echo: true });
  if (order.goaway) goaway(lastSession, order.goaway);
  if (order.open) {
    const waiting = gated;
    gated = [];
    waiting.forEach((answer) => answer());
  }
}).on("close", () => process.exit(0));
