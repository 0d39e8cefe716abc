// postgres.js, by its environment.
import assert from 'node:assert/strict'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import postgres from 'postgres'

const sql = postgres({ max: 4, onnotice: () => {} })
assert.equal((await sql`select ${40}::int + ${2}::int as n`)[0].n, 42)
assert.equal((await sql`select ${"it's"}::text as t`)[0].t, "it's")
console.log('parameters')

await sql`create table postgresjs_t (id int primary key, v text)`
await sql.begin((sql) => sql`insert into postgresjs_t values (1, 'one')`)
await assert.rejects(sql.begin(async (sql) => {
  await sql`insert into postgresjs_t values (2, 'two')`
  throw new Error('roll back')
}), /roll back/)
assert.equal((await sql`select count(*)::int as n from postgresjs_t`)[0].n, 1)
console.log('transactions')

const rows = Array.from({ length: 1000 }, (_, i) => `${i + 2}\t${'x'.repeat(100)}\n`)
await pipeline(Readable.from(rows), await sql`copy postgresjs_t from stdin`.writable())
// With others: a connection of postgres.js 3.4.9 that has done COPY both ways answers no more, also
// at PostgreSQL itself.
const others = postgres({ max: 1 })
let lines = 0
for await (const chunk of await others`copy postgresjs_t to stdout`.readable()) {
  lines += chunk.toString().split('\n').length - 1
}
assert.equal(lines, 1001)
await others.end()
console.log('copy')

const sleeping = sql`select pg_sleep(60)`.execute()
const cancelled = assert.rejects(sleeping, { code: '57014' })
const seen = async () => (await sql`select 1 from pg_stat_activity where query like 'select pg_sleep(%'`).length > 0
while (!await seen()) { /* it cancels once only, so the statement has to run by then */ }
sleeping.cancel()
await cancelled
console.log('cancel')

await assert.rejects(sql`insert into postgresjs_t values (1, 'again')`, (e) => e.code === '23505' && e.detail !== undefined)
console.log('errors')
await sql`drop table postgresjs_t`
await sql.end()

for (let i = 0; i < Number(process.env.CONNECTS); i++) {
  const one = postgres({ max: 1 })
  await one`select 1`
  await one.end()
}
console.log('connects')
