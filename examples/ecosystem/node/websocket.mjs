// PostgreSQL's protocol in the frames of a WebSocket, by hand: a login with a token, and two
// queries, sent in frames of odd sizes, which end anywhere but where messages do. What came of it
// is printed as JSON.
//
// On a cluster, $DSQL_HOST and AWS credentials are all it needs. On "dsql local" it takes
// $DSQL_ADDRESS too, because the endpoint's name does not resolve there.
import tls from "node:tls";
import { DsqlSigner } from "@aws-sdk/dsql-signer";
import WebSocket from "ws";

const host = process.env.DSQL_HOST;
const address = new URL(`tcp://${process.env.DSQL_ADDRESS ?? `${host}:443`}`);
let authorized, alpn;
const socket = new WebSocket(`wss://${host}/`, {
  perMessageDeflate: false,
  createConnection: () => {
    const connection = tls.connect({
      host: address.hostname.replace(/^\[|\]$/g, ""), port: Number(address.port), servername: host, ALPNProtocols: ["http/1.1"],
    });
    connection.on("secureConnect", () => ({ authorized, alpnProtocol: alpn } = connection));
    return connection;
  },
});
socket.binaryType = "nodebuffer";

// send puts bytes into frames of 1, 3, 5, … 13, 1, 3, … bytes.
let size = 1;
function send(bytes) {
  while (bytes.length > 0) {
    socket.send(bytes.subarray(0, size));
    bytes = bytes.subarray(size);
    size = (size + 2) % 14;
  }
}

// message is one of the protocol; the startup message is the one without a type.
function message(type, ...parts) {
  const body = Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(`${part}\0`) : part)));
  const length = Buffer.alloc(4);
  length.writeInt32BE(4 + body.length);
  return Buffer.concat([Buffer.from(type), length, body]);
}

// messages yields what the server sends, wherever its frames end.
async function* messages() {
  let rest = Buffer.alloc(0);
  for await (const frame of frames()) {
    rest = Buffer.concat([rest, frame]);
    while (rest.length >= 5 && rest.length >= 1 + rest.readInt32BE(1)) {
      const end = 1 + rest.readInt32BE(1);
      yield { type: String.fromCharCode(rest[0]), body: rest.subarray(5, end) };
      rest = rest.subarray(end);
    }
  }
}

async function* frames() {
  const queue = [];
  let wake = () => {};
  let ended = false;
  socket.on("message", (data) => { queue.push(data); wake(); });
  socket.on("close", () => { ended = true; wake(); });
  while (!ended || queue.length > 0) {
    if (queue.length > 0) yield queue.shift();
    else await new Promise((resolve) => { wake = resolve; });
  }
}

// firstColumn is a DataRow's first value, as text.
const firstColumn = (body) => body.subarray(6, 6 + body.readInt32BE(2)).toString();

await new Promise((resolve, reject) => { socket.on("open", resolve); socket.on("error", reject); });
const token = await new DsqlSigner({ hostname: host, region: process.env.AWS_REGION }).getDbConnectAdminAuthToken();
send(message("", Buffer.from([0, 3, 0, 0]), "user", "admin", "database", "postgres", Buffer.from([0])));
const queries = ["select current_user || 6 * 7", "select repeat('x', 100000)"];
const values = [];
for await (const { type, body } of messages()) {
  if (type === "R" && body.readInt32BE(0) === 3) send(message("p", token));
  if (type === "E") throw new Error(body.toString().replaceAll("\0", " "));
  if (type === "D") values.push(firstColumn(body));
  if (type === "Z") {
    if (queries.length === 0) {
      send(message("X"));
      break;
    }
    send(message("Q", queries.shift()));
  }
}
const closed = new Promise((resolve) => socket.on("close", resolve));
socket.close(1000);
console.log(JSON.stringify({ value: values[0], length: values[1].length, authorized, alpn, closed: await closed }));
