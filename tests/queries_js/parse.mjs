// Reads {"logql": [...], "traceql": [...]} and writes, for each query that is not one, where it stops being one.
import { readFileSync } from "node:fs";
import { parser as logql } from "@grafana/lezer-logql";
import { parser as traceql } from "@grafana/lezer-traceql";

const wrong = [];
for (const [language, queries] of Object.entries(JSON.parse(readFileSync(0, "utf-8")))) {
  const parser = { logql, traceql }[language];
  for (const query of queries) {
    parser.parse(query).iterate({
      enter(node) {
        if (node.type.isError) wrong.push({ language, query, at: node.from });
      },
    });
  }
}
process.stdout.write(JSON.stringify(wrong));
