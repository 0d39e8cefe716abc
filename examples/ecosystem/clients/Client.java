import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;

/** What pgjdbc makes of an endpoint, as JSON. */
public class Client {
	static Connection connect(String host) throws SQLException {
		Properties properties = new Properties();
		properties.setProperty("user", "admin");
		properties.setProperty("password", System.getenv("PGPASSWORD"));
		properties.setProperty("sslmode", "verify-full");
		properties.setProperty("sslrootcert", System.getenv("DSQL_CA_FILE"));
		return DriverManager.getConnection("jdbc:postgresql://" + host + ":" + System.getenv("DSQL_PORT") + "/postgres", properties);
	}

	static String one(Connection connection, String sql, Object... parameters) throws SQLException {
		try (PreparedStatement statement = connection.prepareStatement(sql)) {
			for (int i = 0; i < parameters.length; i++) {
				statement.setObject(i + 1, parameters[i]);
			}
			try (ResultSet rows = statement.executeQuery()) {
				rows.next();
				return rows.getString(1);
			}
		}
	}

	static void run(Connection connection, String sql, Object... parameters) throws SQLException {
		try (PreparedStatement statement = connection.prepareStatement(sql)) {
			for (int i = 0; i < parameters.length; i++) {
				statement.setObject(i + 1, parameters[i]);
			}
			statement.execute();
		}
	}

	static String cancelled(Connection connection, Connection watcher) throws Exception {
		try (Statement sleeping = connection.createStatement()) {
			Thread canceller = new Thread(() -> {
				try {
					while (one(watcher, "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'").equals("0")) {
						Thread.sleep(10);
					}
					sleeping.cancel();
				} catch (Exception e) {
					e.printStackTrace();
				}
			});
			canceller.start();
			try {
				sleeping.execute("select pg_sleep(60)");
				return "";
			} catch (SQLException e) {
				return e.getSQLState();
			} finally {
				canceller.join();
			}
		}
	}

	static String wrongName() {
		try (Connection connection = connect("wrong.example.com")) {
			return "";
		} catch (SQLException e) {
			return e.getMessage();
		}
	}

	static String json(String s) {
		return '"' + s.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ") + '"';
	}

	public static void main(String[] arguments) throws Exception {
		String host = System.getenv("DSQL_HOST");
		try (Connection connection = connect(host); Connection watcher = connect(host)) {
			run(connection, "create table pgjdbc (id int primary key, name text)");
			run(connection, "insert into pgjdbc values (?, ?)", 1, "it's \u00fc");
			String parameter = one(connection, "select name from pgjdbc where id = ?", 1);

			connection.setAutoCommit(false);
			run(connection, "update pgjdbc set name = 'lost'");
			connection.rollback();
			String rolledBack = one(connection, "select name from pgjdbc");
			run(connection, "update pgjdbc set name = ?", "changed");
			connection.commit();
			String committed = one(connection, "select name from pgjdbc");
			connection.commit();
			connection.setAutoCommit(true);

			long copied = connection.unwrap(PGConnection.class).getCopyAPI()
				.copyIn("copy pgjdbc from stdin", new StringReader("2\tb\n3\tc\n4\td\n"));
			String cancelled = cancelled(connection, watcher);
			byte[] out = String.format(
				"{\"User\": %s, \"Version\": %s, \"Parameter\": %s, \"RolledBack\": %s, \"Committed\": %s, \"Copied\": %d, \"Cancelled\": %s, \"After\": %s, \"WrongName\": %s}",
				json(one(connection, "select current_user")), json(connection.getMetaData().getDatabaseProductVersion()), json(parameter),
				json(rolledBack), json(committed), copied, json(cancelled), one(connection, "select 1"), json(wrongName()))
				.getBytes("UTF-8");
			System.out.write(out, 0, out.length);
			System.out.flush();
		}
	}
}
