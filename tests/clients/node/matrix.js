// What node-postgres is tested with. Run as: node matrix.js NAME; libpq's environment says where.
// A failed assertion ends it with status 1. Rows hold the number of the client that asked for them.
"use strict";

const assert = require("node:assert/strict");
const { pipeline } = require("node:stream/promises");
const { Readable } = require("node:stream");
const pg = require("pg");
const Cursor = require("pg-cursor");
const QueryStream = require("pg-query-stream");
const { from: copyFrom, to: copyTo } = require("pg-copy-streams");

const clients = Number(process.env.MATRIX_CLIENTS);
const table = process.env.MATRIX_TABLE;
const range = (size) => Array.from({ length: size }, (_, i) => i);

async function crowd(work) {
  await Promise.all(
    range(clients).map(async (number) => {
      const client = new pg.Client();
      await client.connect();
      try {
        await work(client, number);
      } finally {
        await client.end();
      }
    }),
  );
}

async function queries() {
  await crowd(async (client, number) => {
    const notices = [];
    client.on("notice", (notice) => notices.push(notice.message));
    for (const turn of range(20)) {
      const plain = await client.query(`select ${number} as n, ${turn} as t`);
      assert.deepEqual(plain.rows, [{ n: number, t: turn }]);
      const unnamed = await client.query("select $1::int as n, $2::text as t", [number, "text"]);
      assert.deepEqual(unnamed.rows, [{ n: number, t: "text" }]);
      const named = { name: `turn ${turn % 3}`, text: `select $1::int as n, ${turn % 3} as t` };
      const result = await client.query({ ...named, values: [number] });
      assert.deepEqual(result.rows, [{ n: number, t: turn % 3 }]);
    }
    const rest = await Promise.all(
      range(20).map((turn) => client.query("select $1::int * $2::int as p", [number, turn])),
    );
    assert.deepEqual(rest.map((result) => result.rows[0].p), range(20).map((t) => number * t));
    const several = await client.query(`select ${number} as a; select 2 as b`);
    assert.deepEqual(several.map((result) => result.rows), [[{ a: number }], [{ b: 2 }]]);
    await assert.rejects(client.query("select 1 / $1::int", [0]), { code: "22012" });
    await client.query(`do $$ begin raise notice 'from ${number}'; end $$`);
    assert.deepEqual(notices, [`from ${number}`]);
  });
}

async function transactions() {
  await crowd(async (client, number) => {
    for (const turn of range(10)) {
      await client.query("begin isolation level repeatable read");
      await client.query(`insert into ${table} values ($1, $2)`, [number, turn]);
      await client.query("savepoint one");
      await assert.rejects(client.query(`delete from ${table} where i = $1::int / 0`, [turn]));
      await client.query("rollback to one");
      await client.query(turn % 2 ? "rollback" : "commit");
    }
    const count = await client.query(`select count(*)::int as c from ${table} where who = $1`, [number]);
    assert.deepEqual(count.rows, [{ c: 5 }]);
  });
}

async function cursors() {
  await crowd(async (client, number) => {
    await client.query("begin");
    const cursor = client.query(new Cursor("select $1 + generate_series(1, 100) as n", [number]));
    const first = await cursor.read(7);
    assert.deepEqual(first.map((row) => row.n), range(7).map((i) => number + i + 1));
    assert.equal((await cursor.read(200)).length, 93);
    await cursor.close();
    const early = client.query(new Cursor("select generate_series(1, 100)"));
    assert.equal((await early.read(3)).length, 3);
    await early.close();
    await client.query("commit");
    let sum = 0;
    // Outside of a transaction: its portal lasts to its Sync, and Sync comes when it is read.
    const stream = new QueryStream("select generate_series(1, $1::int) as n", [1000], { batchSize: 50 });
    for await (const row of client.query(stream)) sum += row.n;
    assert.equal(sum, 500500);
  });
}

async function copies() {
  await crowd(async (client, number) => {
    const lines = range(2000).map((i) => `${number}\t${i}\n`);
    await pipeline(Readable.from(lines), client.query(copyFrom(`copy ${table} from stdin`)));
    const mine = `select * from ${table} where who = ${number} order by i`;
    let text = "";
    for await (const chunk of client.query(copyTo(`copy (${mine}) to stdout`))) text += chunk;
    assert.equal(text, lines.join(""));
  });
}

async function pool() {
  const pool = new pg.Pool({ max: Number(process.env.MATRIX_POOL) });
  const rows = await Promise.all(range(200).map((i) => pool.query("select $1::int as i", [i])));
  assert.deepEqual(rows.map((result) => result.rows[0].i), range(200));
  await pool.end();
}

async function notifications() {
  const [listener, speaker] = [new pg.Client(), new pg.Client()];
  await listener.connect();
  await speaker.connect();
  await listener.query("listen news");
  const heard = new Promise((resolve) => listener.once("notification", resolve));
  await speaker.query("notify news, 'it works'");
  const notification = await heard;
  const { rows } = await speaker.query("select pg_backend_pid() as pid");
  assert.equal(notification.payload, "it works");
  assert.equal(notification.processId, rows[0].pid);
  await listener.end();
  await speaker.end();
}

const matrix = { queries, transactions, cursors, copies, pool, notifications };
matrix[process.argv[2]]().catch((error) => {
  console.error(error);
  process.exit(1); // also with connections that are still open
});
