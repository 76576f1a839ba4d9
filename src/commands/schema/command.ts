/** `udm schema`: what the documents of --json look like, as JSON Schema. */
import { Argument, Command } from "commander";
import { UsageError } from "../../errors/index.js";
import { nearestWord, renderTable } from "../../ui/index.js";
import type { Context } from "../context.js";
import { DOCUMENT_VERSION } from "../document-version.js";
import { DOCUMENTS, type DocumentOf, NOUNS } from "./documents.js";
import { schemaOf } from "./json-schema.js";

export function schemaCommand(context: Context): Command {
  return new Command("schema")
    .description(
      "Prints the JSON Schema of a document that --json prints, by its noun: the key it begins with, or plan, done, error. " +
        "Without a noun lists them.",
    )
    .addArgument(new Argument("[noun]", "such as pools, thins or error"))
    .action(async (name: string | undefined) => {
      if (name !== undefined) {
        const noun = NOUNS.find((each) => each === name);
        if (noun === undefined) throw unknownNoun(name);
        // The schema is the document, whether or not --json is given.
        context.line(JSON.stringify(schemaOf(noun), undefined, 2));
        return;
      }
      const schemas = NOUNS.map((noun) => {
        const { tells, commands } = DOCUMENTS[noun];
        return { noun, version: DOCUMENT_VERSION, tells, commands };
      });
      if (context.globals.json) {
        context.json({ schemas } satisfies DocumentOf<"schemas">);
        return;
      }
      const columns = ["NOUN", "VERSION", "TELLS"].map((heading) => ({ heading, align: "left" as const }));
      const rows = schemas.map(({ noun, version, tells }) => [noun, String(version), tells]);
      context.lines(await renderTable(columns, rows, { headings: context.globals.headings }));
    });
}

function unknownNoun(name: string): UsageError {
  const near = nearestWord(name, NOUNS);
  const suggestion = near === undefined ? "" : `did you mean ${near}? `;
  return new UsageError(`schema: no document '${name}'`, { hint: `${suggestion}one of ${NOUNS.join(" ")}` });
}
