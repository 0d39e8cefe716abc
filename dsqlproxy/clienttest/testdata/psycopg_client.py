"""psycopg 3, by libpq's environment."""
import os
import threading

import psycopg

CONNECTS = int(os.environ["CONNECTS"])

conn = psycopg.connect("", autocommit=True)
assert conn.execute("select %s::int + %s::int, %b::text", (40, 2, "it's")).fetchone() == (42, "it's")
for i in range(10):  # it prepares a statement that it has seen five times
    assert conn.execute("select %s::int", (i,), prepare=True).fetchone() == (i,)
print("parameters")

conn.execute("create table psycopg_t (id int primary key, v text)")
with conn.transaction():
    conn.execute("insert into psycopg_t values (%s, %s)", (1, "one"))
with conn.transaction():
    conn.execute("insert into psycopg_t values (%s, %s)", (2, "two"))
    raise_it = psycopg.Rollback()
    raise raise_it
assert conn.execute("select count(*) from psycopg_t").fetchone() == (1,)
print("transactions")

with conn.cursor() as cur:
    with cur.copy("copy psycopg_t from stdin") as copy:
        for i in range(2, 1002):
            copy.write_row((i, "x" * 100))
    with cur.copy("copy (select * from psycopg_t order by id) to stdout") as copy:
        assert sum(1 for _ in copy.rows()) == 1001
print("copy")


def cancel():
    while not done.wait(0.05):
        conn.cancel()


done = threading.Event()
thread = threading.Thread(target=cancel)
thread.start()
try:
    conn.execute("select pg_sleep(60)")
    raise AssertionError("not cancelled")
except psycopg.errors.QueryCanceled as e:
    assert e.sqlstate == "57014", e
finally:
    done.set()
    thread.join()
print("cancel")

try:
    conn.execute("insert into psycopg_t values (1, 'again')")
    raise AssertionError("no error")
except psycopg.errors.UniqueViolation as e:
    assert e.sqlstate == "23505" and e.diag.message_detail, e
print("errors")
conn.execute("drop table psycopg_t")

for _ in range(CONNECTS):
    psycopg.connect("").close()
print("connects")
