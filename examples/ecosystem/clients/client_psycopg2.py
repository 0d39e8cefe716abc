"""What psycopg2 makes of an endpoint, as JSON. libpq dials PGHOSTADDR and verifies PGHOST."""
import io
import json
import os
import threading
import time

import psycopg2


def connect(host=os.environ["DSQL_HOST"]):
    return psycopg2.connect(
        host=host, hostaddr="127.0.0.1", port=os.environ["DSQL_PORT"], user="admin", dbname="postgres",
        sslmode="verify-full", sslrootcert=os.environ["DSQL_CA_FILE"], password=os.environ["PGPASSWORD"])


def one(cursor, sql, *parameters):
    cursor.execute(sql, parameters or None)  # with none, a % is a %
    return cursor.fetchone()[0]


connection, watcher = connect(), connect()
watcher.autocommit = True
result = {"Version": connection.get_parameter_status("server_version")}
cursor = connection.cursor()
result["User"] = one(cursor, "select current_user")
connection.commit()
cursor.execute("create table psycopg2 (id int primary key, name text)")
connection.commit()

cursor.execute("insert into psycopg2 values (%s, %s)", (1, "it's ü"))
connection.commit()
result["Parameter"] = one(cursor, "select name from psycopg2 where id = %s", 1)
cursor.execute("update psycopg2 set name = 'lost'")
connection.rollback()
result["RolledBack"] = one(cursor, "select name from psycopg2")
cursor.execute("update psycopg2 set name = 'changed'")
connection.commit()
result["Committed"] = one(cursor, "select name from psycopg2")

cursor.copy_expert("copy psycopg2 from stdin", io.StringIO("2\tb\n3\tc\n4\td\n"))
result["Copied"] = cursor.rowcount
connection.commit()


def cancel():
    while not one(watcher.cursor(), "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"):
        time.sleep(0.01)
    connection.cancel()


canceller = threading.Thread(target=cancel)
canceller.start()
try:
    cursor.execute("select pg_sleep(60)")
except psycopg2.Error as error:
    result["Cancelled"] = error.pgcode
canceller.join()
connection.rollback()
result["After"] = one(cursor, "select 1")

try:
    connect("wrong.example.com")
except psycopg2.OperationalError as error:
    result["WrongName"] = str(error)
print(json.dumps(result))
