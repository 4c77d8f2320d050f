// Speaks Postgres for Prisma's schema engine: one connection, so that its advisory lock and its transactions stay
// in one session, and whole scripts in one message, so that a function's body is not split at its semicolons.

import { randomUUID } from "node:crypto";

import { ColumnTypeEnum, DriverAdapterError } from "@prisma/driver-adapter-utils";
import pg from "pg";

// The types of the catalogue columns that the engine reads, by oid.
const COLUMN_TYPES = new Map([
  [16, ColumnTypeEnum.Boolean],
  [18, ColumnTypeEnum.Character], // "char"
  [19, ColumnTypeEnum.Text], // name
  [20, ColumnTypeEnum.Int64],
  [21, ColumnTypeEnum.Int32],
  [23, ColumnTypeEnum.Int32],
  [25, ColumnTypeEnum.Text],
  [26, ColumnTypeEnum.Int64], // oid
  [1003, ColumnTypeEnum.TextArray], // name[]
  [1005, ColumnTypeEnum.Int32Array],
  [1007, ColumnTypeEnum.Int32Array],
  [1009, ColumnTypeEnum.TextArray],
  [1043, ColumnTypeEnum.Text],
  [1184, ColumnTypeEnum.DateTime],
]);

// The engine wants times as RFC 3339 text, not as Date.
const asText = { getTypeParser: (oid) => (oid === 1184 ? rfc3339 : pg.types.getTypeParser(oid)) };

function rfc3339(text) {
  return text.replace(" ", "T").replace(/([+-]\d{2})$/, "$1:00");
}

class Connection {
  provider = "postgres";
  adapterName = "luthien";
  options = { usePhantomQuery: false };

  constructor(client, onDispose = async () => {}) {
    this.client = client;
    this.onDispose = onDispose;
  }

  async queryRaw({ sql, args }) {
    const { fields, rows } = await this.send({ text: sql, values: args, rowMode: "array", types: asText });
    return {
      columnNames: fields.map((field) => field.name),
      columnTypes: fields.map((field) => columnType(field)),
      rows,
    };
  }

  async executeRaw({ sql, args }) {
    return (await this.send({ text: sql, values: args })).rowCount ?? 0;
  }

  async executeScript(script) {
    await this.send(script);
  }

  async startTransaction() {
    await this.send("BEGIN");
    return this;
  }

  // The engine sends COMMIT and ROLLBACK itself and then calls these.
  async commit() {}
  async rollback() {}

  getConnectionInfo() {
    return { schemaName: "public", supportsRelationJoins: false };
  }

  async dispose() {
    await this.client.end();
    await this.onDispose();
  }

  async send(query) {
    try {
      return await this.client.query(query);
    } catch (error) {
      if (!(error instanceof pg.DatabaseError)) throw error;
      const { code, severity, message, detail, column, hint } = error;
      throw new DriverAdapterError({ kind: "postgres", code, severity, message, detail, column, hint });
    }
  }
}

function columnType(field) {
  const type = COLUMN_TYPES.get(field.dataTypeID);
  if (type === undefined) throw new Error(`column ${field.name}: no mapping for type oid ${field.dataTypeID}`);
  return type;
}

// Where and as whom is said by PGHOST and its kin.
async function open(database = process.env.PGDATABASE) {
  const client = new pg.Client({ database });
  await client.connect();
  return client;
}

export class AdapterFactory {
  provider = "postgres";
  adapterName = "luthien";

  async connect() {
    return new Connection(await open());
  }

  async connectToShadowDb() {
    const name = `shadow_${randomUUID()}`;
    const owner = await open();
    await owner.query(`CREATE DATABASE "${name}"`);
    return new Connection(await open(name), async () => {
      await owner.query(`DROP DATABASE "${name}"`);
      await owner.end();
    });
  }
}
