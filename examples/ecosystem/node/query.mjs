// Queries over AWS's own connector for node-postgres, unchanged: a table, a transaction that loses
// once against another and runs again, and what came of it, as JSON.
//
// On a cluster, $DSQL_HOST and AWS credentials are all it needs. On "dsql local" it takes
// $DSQL_ADDRESS too, because the endpoint's name does not resolve there.
import net from "node:net";
import { AuroraDSQLPool } from "@aws/aurora-dsql-node-postgres-connector";

const pool = new AuroraDSQLPool({
  host: process.env.DSQL_HOST,
  max: 2,
  ...(process.env.DSQL_ADDRESS && { stream: () => dialing(process.env.DSQL_ADDRESS) }),
});

// dialing is a socket that connects to address, whatever name it is given. The name still
// is what TLS asks for and checks the certificate against, and what the token is for.
function dialing(address) {
  const url = new URL(`tcp://${address}`);
  const socket = new net.Socket();
  const connect = socket.connect;
  socket.connect = () => connect.call(socket, Number(url.port), url.hostname.replace(/^\[|\]$/g, ""));
  return socket;
}

try {
  await pool.query("create table if not exists node_counter (id int primary key, n int not null)");
  await pool.query("insert into node_counter values (1, 0) on conflict (id) do update set n = 0");
  let attempts = 0;
  await pool.transaction(async (client) => {
    attempts++;
    const { rows } = await client.query("select n from node_counter where id = 1");
    if (attempts === 1) {
      // What another program might do at this moment.
      await pool.query("update node_counter set n = n + 10 where id = 1");
    }
    await client.query("update node_counter set n = $1 where id = 1", [rows[0].n + 1]);
  });
  const client = await pool.connect();
  const { stream } = client.connection;
  const { rows } = await client.query("select current_user as user, n from node_counter");
  client.release();
  console.log(JSON.stringify({ ...rows[0], attempts, authorized: stream.authorized, servername: stream.servername, alpn: stream.alpnProtocol }));
} finally {
  await pool.end();
}
