import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import org.postgresql.PGConnection;

/** pgjdbc: a URL with a host and a port. */
public class JdbcClient {
    static void check(boolean ok, String what) {
        if (!ok) {
            throw new AssertionError(what);
        }
    }

    static int count(Connection c) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("select count(*) from jdbc_t")) {
            r.next();
            return r.getInt(1);
        }
    }

    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/postgres?user=admin";
        Connection c = DriverManager.getConnection(url);
        try (PreparedStatement p = c.prepareStatement("select ?::int + ?::int, ?::text")) {
            for (int i = 0; i < 10; i++) { // it prepares at the server from the fifth time on
                p.setInt(1, 40);
                p.setInt(2, 2);
                p.setString(3, "it's");
                try (ResultSet r = p.executeQuery()) {
                    r.next();
                    check(r.getInt(1) == 42 && r.getString(2).equals("it's"), "parameters");
                }
            }
        }
        System.out.println("parameters");

        try (Statement s = c.createStatement()) {
            s.execute("create table jdbc_t (id int primary key, v text)");
            c.setAutoCommit(false);
            s.execute("insert into jdbc_t values (1, 'one')");
            c.commit();
            s.execute("insert into jdbc_t values (2, 'two')");
            c.rollback();
            c.setAutoCommit(true);
            check(count(c) == 1, "transactions");
            System.out.println("transactions");

            StringBuilder rows = new StringBuilder();
            for (int i = 2; i < 1002; i++) {
                rows.append(i).append('\t').append("x".repeat(100)).append('\n');
            }
            c.unwrap(PGConnection.class).getCopyAPI().copyIn("copy jdbc_t from stdin", new StringReader(rows.toString()));
            StringWriter out = new StringWriter();
            c.unwrap(PGConnection.class).getCopyAPI().copyOut("copy jdbc_t to stdout", out);
            check(out.toString().lines().count() == 1001, "copy");
            System.out.println("copy");

            s.setQueryTimeout(1);
            try {
                s.execute("select pg_sleep(60)");
                check(false, "not cancelled");
            } catch (SQLException e) {
                check(e.getSQLState().equals("57014"), e.getSQLState());
            }
            s.setQueryTimeout(0);
            System.out.println("cancel");

            try {
                s.execute("insert into jdbc_t values (1, 'again')");
                check(false, "no error");
            } catch (SQLException e) {
                check(e.getSQLState().equals("23505"), e.getSQLState());
            }
            System.out.println("errors");
            s.execute("drop table jdbc_t");
        }
        c.close();

        for (int i = 0; i < Integer.parseInt(System.getenv("CONNECTS")); i++) {
            DriverManager.getConnection(url).close();
        }
        System.out.println("connects");
    }
}
