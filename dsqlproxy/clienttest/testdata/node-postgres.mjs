// node-postgres, by its environment.
import assert from 'node:assert/strict'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import pg from 'pg'
import { from, to } from 'pg-copy-streams'

const pool = new pg.Pool({ max: 4 })
assert.equal((await pool.query('select $1::int + $2::int as n', [40, 2])).rows[0].n, 42)
assert.equal((await pool.query({ name: 'prepared', text: 'select $1::text as t', values: ["it's"] })).rows[0].t, "it's")
console.log('parameters')

await pool.query('create table node_postgres_t (id int primary key, v text)')
const client = await pool.connect()
for (const end of ['commit', 'rollback']) {
  await client.query('begin')
  await client.query('insert into node_postgres_t values ($1, $2)', [end === 'commit' ? 1 : 2, 'x'])
  await client.query(end)
}
assert.equal((await client.query('select count(*)::int as n from node_postgres_t')).rows[0].n, 1)
console.log('transactions')

const rows = Array.from({ length: 1000 }, (_, i) => `${i + 2}\t${'x'.repeat(100)}\n`)
await pipeline(Readable.from(rows), client.query(from('copy node_postgres_t from stdin')))
let lines = 0
for await (const chunk of client.query(to('copy node_postgres_t to stdout'))) {
  lines += chunk.toString().split('\n').length - 1
}
assert.equal(lines, 1001)
console.log('copy')

const sleeping = assert.rejects(client.query('select pg_sleep(60)'), { code: '57014' })
let slept = false
sleeping.then(() => { slept = true })
while (!slept) {
  // node-postgres has no call for this but the one that its own pool uses.
  const canceller = new pg.Client()
  await new Promise((resolve) => {
    canceller.connection.on('end', resolve)
    canceller.connection.on('connect', () => canceller.connection.cancel(client.processID, client.secretKey))
    canceller.connection.connect(canceller.port, canceller.host)
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
}
await sleeping
console.log('cancel')

await assert.rejects(client.query("insert into node_postgres_t values (1, 'again')"), (e) => e.code === '23505' && e.detail !== undefined)
console.log('errors')
client.release()
await pool.query('drop table node_postgres_t')
await pool.end()

for (let i = 0; i < Number(process.env.CONNECTS); i++) {
  const c = new pg.Client()
  await c.connect()
  await c.end()
}
console.log('connects')
