"""asyncpg with a pool, as an application has it: host, port and user, and nothing of DSQL."""
import asyncio
import io
import os

import asyncpg

WHERE = dict(host=os.environ["PGHOST"], port=int(os.environ["PGPORT"]), user="admin", database="postgres")
CONNECTS = int(os.environ["CONNECTS"])


async def main():
    async with asyncpg.create_pool(**WHERE, min_size=2, max_size=4) as pool:
        # A release resets the session, so this works only if the reset does.
        for _ in range(20):
            async with pool.acquire() as conn:
                assert await conn.fetchval("select $1::int + $2::int", 40, 2) == 42
        assert await pool.fetchval("select $1::text[]", ["a", "b"]) == ["a", "b"]
        print("parameters")

        await pool.execute("create table asyncpg_t (id int primary key, v text)")
        async with pool.acquire() as conn:
            async with conn.transaction():
                await conn.execute("insert into asyncpg_t values ($1, $2)", 1, "one")
            try:
                async with conn.transaction():
                    await conn.execute("insert into asyncpg_t values ($1, $2)", 2, "two")
                    raise RuntimeError("roll back")
            except RuntimeError:
                pass
            assert await conn.fetchval("select count(*) from asyncpg_t") == 1
            print("transactions")

            await conn.copy_records_to_table("asyncpg_t", records=[(i, "x" * 100) for i in range(2, 1002)], columns=["id", "v"])
            out = io.BytesIO()
            await conn.copy_from_query("select * from asyncpg_t order by id", output=out)
            assert len(out.getvalue().splitlines()) == 1001
            print("copy")

            try:
                await conn.fetch("select pg_sleep(60)", timeout=0.5)
                raise AssertionError("not cancelled")
            except asyncio.TimeoutError:
                pass
            assert await conn.fetchval("select 1") == 1
            print("cancel")

            try:
                await conn.execute("insert into asyncpg_t values (1, 'again')")
                raise AssertionError("no error")
            except asyncpg.UniqueViolationError as e:
                assert e.sqlstate == "23505" and e.detail, e
            print("errors")
        await pool.execute("drop table asyncpg_t")

    for _ in range(CONNECTS):
        conn = await asyncpg.connect(**WHERE)
        assert await conn.fetchval("select 1") == 1
        await conn.close()
    print("connects")


asyncio.run(main())
