import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

/**
 * What pgjdbc is tested with, all clients at once. libpq's environment says where; an exception
 * ends it with a status other than 0. Rows hold the number of the client that asked for them.
 *
 * <p>Run as: java -cp postgresql.jar:CLASSES Matrix MODE TABLE CLIENTS.
 */
public final class Matrix {
  private static String table;

  private interface Work {
    void run(int number) throws Exception;
  }

  public static void main(String[] arguments) throws Exception {
    String mode = arguments[0];
    table = arguments[1];
    int clients = Integer.parseInt(arguments[2]);
    crowd(clients, Matrix::queries);
    crowd(clients, Matrix::copies);
    crowd(clients, Matrix::cancels);
    if (mode.equals("statement")) {
      return;
    }
    crowd(clients, Matrix::transactions);
    crowd(clients, Matrix::batches);
    crowd(clients, Matrix::cursors);
    crowd(clients, Matrix::largeObjects);
    if (mode.equals("session")) {
      notifications();
    }
  }

  private static void crowd(int clients, Work work) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(clients);
    List<Future<Void>> results = new ArrayList<>();
    for (int i = 0; i < clients; i++) {
      int number = i;
      results.add(pool.submit((Callable<Void>) () -> {
        work.run(number);
        return null;
      }));
    }
    pool.shutdown();
    for (Future<Void> result : results) {
      result.get();
    }
  }

  private static Connection connect(String... options) throws SQLException {
    Properties properties = new Properties();
    properties.setProperty("user", System.getenv("PGUSER"));
    properties.setProperty("password", System.getenv("PGPASSWORD"));
    for (int i = 0; i < options.length; i += 2) {
      properties.setProperty(options[i], options[i + 1]);
    }
    String server = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
    String url = "jdbc:postgresql://" + server + "/" + System.getenv("PGDATABASE");
    return DriverManager.getConnection(url, properties);
  }

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  private static int number(ResultSet rows) throws SQLException {
    check(rows.next(), "a row");
    return rows.getInt(1);
  }

  /** Named statements at once, after some executions, or never; and simple queries. */
  private static void queries(int number) throws Exception {
    for (String threshold : new String[] {"1", "0"}) {
      try (Connection connection = connect("prepareThreshold", threshold);
          PreparedStatement sum = connection.prepareStatement("select ?::int + ?::int")) {
        for (int turn = 0; turn < 8; turn++) {
          sum.setInt(1, number);
          sum.setInt(2, turn * 100);
          check(number(sum.executeQuery()) == number + turn * 100, "the sum");
          String text = "select " + number + ", ?::text, " + turn % 4;
          try (PreparedStatement other = connection.prepareStatement(text)) {
            other.setString(1, "word " + number);
            ResultSet rows = other.executeQuery();
            check(number(rows) == number, "the number");
            check(rows.getString(2).equals("word " + number), "the word");
          }
        }
        try (Statement statement = connection.createStatement()) {
          check(statement.execute("select 1; select " + number), "a first result");
          check(statement.getMoreResults(), "a second result");
          check(number(statement.getResultSet()) == number, "the second");
          statement.execute("do $$ begin raise notice 'from " + number + "'; end $$");
          check(statement.getWarnings().getMessage().equals("from " + number), "the notice");
        }
      }
    }
    try (Connection simple = connect("preferQueryMode", "simple");
        PreparedStatement statement = simple.prepareStatement("select ?::int")) {
      statement.setInt(1, number);
      check(number(statement.executeQuery()) == number, "by a simple query");
    }
  }

  private static void transactions(int number) throws Exception {
    try (Connection connection = connect("prepareThreshold", "1")) {
      connection.setAutoCommit(false);
      connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
      String insert = "insert into " + table + " values (?, ?)";
      String count = "select count(*) from " + table + " where who = " + number;
      for (int turn = 0; turn < 6; turn++) {
        try (PreparedStatement statement = connection.prepareStatement(insert);
            PreparedStatement counting = connection.prepareStatement(count)) {
          statement.setInt(1, number);
          statement.setInt(2, turn);
          statement.executeUpdate();
          Savepoint savepoint = connection.setSavepoint();
          statement.setInt(2, -1);
          try {
            statement.executeUpdate();
            check(false, "the constraint");
          } catch (SQLException error) {
            check(error.getSQLState().equals("23514"), error.getMessage());
          }
          connection.rollback(savepoint);
          if (turn % 2 == 0) {
            connection.commit();
          } else {
            connection.rollback();
          }
          check(number(counting.executeQuery()) == turn / 2 + 1, "the rows after turn " + turn);
          connection.commit();
        }
      }
    }
  }

  /** Batches, as they are and rewritten to fewer statements; one that fails in the middle. */
  private static void batches(int number) throws Exception {
    for (String rewrite : new String[] {"false", "true"}) {
      try (Connection connection = connect("reWriteBatchedInserts", rewrite, "prepareThreshold", "1");
          Statement plain = connection.createStatement()) {
        connection.setAutoCommit(false);
        plain.executeUpdate("delete from " + table + " where who = " + number);
        String insert = "insert into " + table + " values (?, ?)";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
          for (int i = 0; i < 300; i++) {
            statement.setInt(1, number);
            statement.setInt(2, i);
            statement.addBatch();
          }
          check(statement.executeBatch().length == 300, "the batch");
          connection.commit();
          for (int i = -3; i < 3; i++) {
            statement.setInt(1, number);
            statement.setInt(2, -i);
            statement.addBatch();
          }
          try {
            statement.executeBatch();
            check(false, "the constraint");
          } catch (BatchUpdateException error) {
            check(error.getSQLState().equals("23514"), error.getMessage());
          }
          connection.rollback();
        }
        String count = "select count(*) from " + table + " where who = " + number;
        check(number(plain.executeQuery(count)) == 300, "the batch's rows");
        connection.commit();
      }
    }
  }

  private static void cursors(int number) throws Exception {
    try (Connection connection = connect("prepareThreshold", "1")) {
      connection.setAutoCommit(false);
      String series = "select ?::int + generate_series(1, 500)";
      try (PreparedStatement statement = connection.prepareStatement(series)) {
        statement.setFetchSize(33);
        for (int turn = 0; turn < 3; turn++) {
          statement.setInt(1, number);
          ResultSet rows = statement.executeQuery();
          for (int i = 1; i <= (turn == 1 ? 100 : 500); i++) {
            check(number(rows) == number + i, "row " + i);
          }
          rows.close();
          connection.commit();
        }
      }
    }
  }

  private static void copies(int number) throws Exception {
    StringBuilder text = new StringBuilder();
    for (int i = 0; i < 2000; i++) {
      text.append(number).append('\t').append(i + 1000).append('\n');
    }
    try (Connection connection = connect()) {
      CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
      check(copy.copyIn("copy " + table + " from stdin", new StringReader(text.toString())) == 2000, "the rows");
      try {
        copy.copyIn("copy " + table + " from stdin", new StringReader(text + "1\t-1\n"));
        check(false, "the constraint");
      } catch (SQLException error) {
        check(error.getSQLState().equals("23514"), error.getMessage());
      }
      StringWriter read = new StringWriter();
      String mine = "select * from " + table + " where who = " + number + " order by i";
      copy.copyOut("copy (" + mine + ") to stdout", read);
      check(read.toString().equals(text.toString()), "the text");
      try (Statement statement = connection.createStatement()) {
        statement.executeUpdate("delete from " + table + " where who = " + number);
      }
    }
  }

  /** A query time-out of the driver, which it keeps by a cancel request. */
  private static void cancels(int number) throws Exception {
    try (Connection connection = connect(); Statement statement = connection.createStatement()) {
      if (number == 0) {
        statement.setQueryTimeout(1);
        try {
          statement.execute("select pg_sleep(60)");
          check(false, "the time-out");
        } catch (SQLException error) {
          check(error.getSQLState().equals("57014"), error.getMessage());
        }
        statement.setQueryTimeout(0);
      }
      for (int turn = 0; turn < 5; turn++) {
        check(number(statement.executeQuery("select " + number)) == number, "the number");
      }
    }
  }

  /** By function calls of the protocol. */
  private static void largeObjects(int number) throws Exception {
    try (Connection connection = connect()) {
      connection.setAutoCommit(false);
      var manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
      long id = manager.createLO();
      try (var large = manager.open(id)) {
        large.write(("number " + number).getBytes());
        large.seek(7);
        check(new String(large.read(10)).equals("" + number), "what was written");
      }
      manager.delete(id);
      connection.commit();
    }
  }

  private static void notifications() throws Exception {
    try (Connection listener = connect(); Connection speaker = connect();
        Statement listen = listener.createStatement(); Statement notify = speaker.createStatement()) {
      listen.execute("listen news");
      notify.execute("notify news, 'it works'");
      PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(10000);
      check(heard.length == 1, "a notification");
      check(heard[0].getParameter().equals("it works"), "its text");
      int pid = speaker.unwrap(PGConnection.class).getBackendPID();
      check(heard[0].getPID() == pid, "its sender");
    }
  }
}
