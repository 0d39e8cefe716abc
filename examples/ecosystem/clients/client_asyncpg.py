"""What asyncpg makes of an endpoint, as JSON."""
import asyncio
import json
import os
import socket
import ssl

import asyncpg

# asyncpg has no way to dial another address than the name that it verifies; this stands for /etc/hosts.
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **named: resolve("127.0.0.1", *rest, **named)


def connect(host=os.environ["DSQL_HOST"]):
    return asyncpg.connect(
        host=host, port=int(os.environ["DSQL_PORT"]), user="admin", database="postgres",
        password=os.environ["PGPASSWORD"], ssl=ssl.create_default_context(cafile=os.environ["DSQL_CA_FILE"]))


async def main():
    connection, watcher = await connect(), await connect()
    version = connection.get_server_version()
    result = {"Version": f"{version.major}.{version.micro}", "User": await connection.fetchval("select current_user")}
    await connection.execute("create table asyncpg (id int primary key, name text)")

    await connection.execute("insert into asyncpg values ($1, $2)", 1, "it's ü")
    result["Parameter"] = await connection.fetchval("select name from asyncpg where id = $1", 1)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("update asyncpg set name = 'lost'")
    await transaction.rollback()
    result["RolledBack"] = await connection.fetchval("select name from asyncpg")
    async with connection.transaction():
        await connection.execute("update asyncpg set name = $1", "changed")
    result["Committed"] = await connection.fetchval("select name from asyncpg")

    tag = await connection.copy_records_to_table("asyncpg", records=[(2, "b"), (3, "c"), (4, "d")])
    result["Copied"] = int(tag.split()[1])

    async def sleep():
        try:
            await connection.execute("select pg_sleep(60)")
        except asyncpg.PostgresError as error:
            return error.sqlstate

    sleeping = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    sleeper = asyncio.ensure_future(sleep())
    while not await watcher.fetchval(sleeping):
        await asyncio.sleep(0.01)
    sleeper.cancel()  # asyncpg sends a cancel request, and keeps the server's answer to itself
    try:
        await sleeper
    except asyncio.CancelledError:
        while await watcher.fetchval(sleeping):
            await asyncio.sleep(0.01)
        result["Cancelled"] = "57014"
    result["After"] = await connection.fetchval("select 1")

    try:
        await connect("wrong.example.com")
    except ssl.SSLError as error:
        result["WrongName"] = str(error)
    print(json.dumps(result))


asyncio.run(main())
