"""psycopg2, by libpq's environment."""
import io
import os
import threading
import time

import psycopg2
import psycopg2.errors

CONNECTS = int(os.environ["CONNECTS"])

conn = psycopg2.connect("")
conn.autocommit = True
cur = conn.cursor()
cur.execute("select %s + %s, %s", (40, 2, "it's"))
assert cur.fetchone() == (42, "it's")
print("parameters")

cur.execute("create table psycopg2_t (id int primary key, v text)")
conn.autocommit = False
cur.execute("insert into psycopg2_t values (%s, %s)", (1, "one"))
conn.commit()
cur.execute("insert into psycopg2_t values (%s, %s)", (2, "two"))
conn.rollback()
cur.execute("select count(*) from psycopg2_t")
assert cur.fetchone() == (1,)
conn.commit()
print("transactions")

cur.copy_expert("copy psycopg2_t from stdin", io.StringIO("".join(f"{i}\t{'x' * 100}\n" for i in range(2, 1002))))
conn.commit()
out = io.StringIO()
cur.copy_expert("copy (select * from psycopg2_t order by id) to stdout", out)
assert len(out.getvalue().splitlines()) == 1001
conn.commit()
print("copy")


def cancel():
    # Again until it meets the statement.
    while not done.wait(0.05):
        conn.cancel()


done = threading.Event()
thread = threading.Thread(target=cancel)
thread.start()
try:
    cur.execute("select pg_sleep(60)")
    raise AssertionError("not cancelled")
except psycopg2.errors.QueryCanceled as e:
    assert e.pgcode == "57014", e
finally:
    done.set()
    thread.join()
conn.rollback()
print("cancel")

try:
    cur.execute("insert into psycopg2_t values (1, 'again')")
    raise AssertionError("no error")
except psycopg2.errors.UniqueViolation as e:
    assert e.pgcode == "23505" and e.diag.message_detail, e
conn.rollback()
print("errors")
conn.autocommit = True
cur.execute("drop table psycopg2_t")

for _ in range(CONNECTS):
    c = psycopg2.connect("")
    c.close()
print("connects")
