// Asks Prisma's own engine about a schema, its migrations and a database, and prints the answer as JSON.
//
//   node check.mjs validate FOLDER
//   node check.mjs format   FOLDER
//   node check.mjs drift    FOLDER      what would have to change in the database to match schema.prisma
//   node check.mjs status   FOLDER      what `prisma migrate status` looks at
//   node check.mjs deploy   FOLDER      what `prisma migrate deploy` does
//   node check.mjs dev      FOLDER      what `prisma migrate dev` would do: build on the database, or reset it
//
// FOLDER holds schema.prisma and migrations/; the database is that of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE.

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

import { bindMigrationAwareSqlAdapterFactory } from "@prisma/driver-adapter-utils";
import * as engineModule from "@prisma/schema-engine-wasm/schema_engine_bg";

import { AdapterFactory } from "./adapter.mjs";

const require = createRequire(import.meta.url);
const NO_FILTER = { externalTables: [], externalEnums: [] };

async function openEngine() {
  const file = path.join(path.dirname(require.resolve("@prisma/schema-engine-wasm")), "schema_engine_bg.wasm");
  const { instance } = await WebAssembly.instantiate(readFileSync(file), { "./schema_engine_bg.js": engineModule });
  engineModule.__wbg_set_wasm(instance.exports);
  instance.exports.__wbindgen_start();
  const adapter = bindMigrationAwareSqlAdapterFactory(new AdapterFactory());
  return engineModule.SchemaEngine.new({ datamodels: undefined }, () => {}, adapter);
}

function schemaFile(folder) {
  const file = path.join(folder, "schema.prisma");
  return { path: file, content: readFileSync(file, "utf8") };
}

function migrationList(folder) {
  const baseDir = path.join(folder, "migrations");
  const lockfile = path.join(baseDir, "migration_lock.toml");
  const names = readdirSync(baseDir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
  return {
    baseDir,
    lockfile: {
      path: "migration_lock.toml",
      content: existsSync(lockfile) ? readFileSync(lockfile, "utf8") : null,
    },
    shadowDbInitScript: "",
    migrationDirectories: names.map((name) => ({
      path: name,
      migrationFile: {
        path: "migration.sql",
        content: { tag: "ok", value: readFileSync(path.join(baseDir, name, "migration.sql"), "utf8") },
      },
    })),
  };
}

const COMMANDS = {
  validate(folder) {
    const { path: file, content } = schemaFile(folder);
    require("@prisma/prisma-schema-wasm").validate(
      JSON.stringify({ prismaSchema: [[file, content]], noColor: true }),
    );
    return { valid: true };
  },

  format(folder) {
    const { path: file, content } = schemaFile(folder);
    const formatted = require("@prisma/prisma-schema-wasm").format(
      JSON.stringify([[file, content]]),
      JSON.stringify({ textDocument: { uri: `file:${file}` }, options: { tabSize: 2, insertSpaces: true } }),
    );
    return { formatted: JSON.parse(formatted)[0][1] === content };
  },

  async drift(folder) {
    const engine = await openEngine();
    const { exitCode, stdout } = await engine.diff({
      from: { tag: "schemaDatasource", files: [schemaFile(folder)], configDir: folder },
      to: { tag: "schemaDatamodel", files: [schemaFile(folder)] },
      script: false,
      exitCode: true,
      filters: NO_FILTER,
    });
    return { drifted: exitCode !== 0, summary: stdout };
  },

  async status(folder) {
    const engine = await openEngine();
    return engine.diagnoseMigrationHistory({
      migrationsList: migrationList(folder),
      optInToShadowDatabase: true,
      filters: NO_FILTER,
    });
  },

  async dev(folder) {
    const engine = await openEngine();
    return engine.devDiagnostic({ migrationsList: migrationList(folder), filters: NO_FILTER });
  },

  async deploy(folder) {
    const engine = await openEngine();
    return engine.applyMigrations({ migrationsList: migrationList(folder), filters: NO_FILTER });
  },
};

const [command, folder] = process.argv.slice(2);
try {
  console.log(JSON.stringify(await COMMANDS[command](folder)));
  process.exit(0);
} catch (error) {
  console.error(error?.message ?? error);
  process.exit(1);
}
