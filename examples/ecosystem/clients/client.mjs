// What node-postgres makes of an endpoint, as JSON.
import fs from "node:fs";
import pg from "pg";

const address = { host: "127.0.0.1", port: Number(process.env.DSQL_PORT) };

async function connect(servername = process.env.DSQL_HOST) {
  const client = new pg.Client({
    ...address,
    user: "admin",
    database: "postgres",
    password: process.env.PGPASSWORD,
    ssl: { ca: fs.readFileSync(process.env.DSQL_CA_FILE), servername },
  });
  await client.connect();
  return client;
}

const client = await connect();
const watcher = await connect();
const one = async (on, sql, ...parameters) => Object.values((await on.query(sql, parameters)).rows[0])[0];

const result = { User: await one(client, "select current_user"), Version: await one(client, "show server_version"), Copied: 0 };
await client.query("create table node_postgres (id int primary key, name text)");
await client.query("insert into node_postgres values ($1, $2)", [1, "it's ü"]);
result.Parameter = await one(client, "select name from node_postgres where id = $1", 1);
await client.query("begin");
await client.query("update node_postgres set name = 'lost'");
await client.query("rollback");
result.RolledBack = await one(client, "select name from node_postgres");
await client.query("begin");
await client.query("update node_postgres set name = $1", ["changed"]);
await client.query("commit");
result.Committed = await one(client, "select name from node_postgres");

// A client's cancel opens a connection of its own. It sends the request once that is there, which
// node-postgres knows of without TLS only.
const query = new pg.Query("select pg_sleep(60)");
const ended = new Promise((resolve) => query.on("error", resolve).on("end", () => resolve({ code: "" })));
client.query(query);
while (!Number(await one(watcher, "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"))) {
  await new Promise((resolve) => setTimeout(resolve, 10));
}
new pg.Client(address).cancel(client, query);
result.Cancelled = (await ended).code;
result.After = await one(client, "select 1");

try {
  await connect("wrong.example.com");
} catch (error) {
  result.WrongName = String(error.code);
}
console.log(JSON.stringify(result));
await client.end();
await watcher.end();
