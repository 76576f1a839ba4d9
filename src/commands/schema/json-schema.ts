/** Shapes as JSON Schema, draft 2020-12. Keys may be added within a version, so unknown ones are not forbidden. */
import { DOCUMENT_VERSION } from "../document-version.js";
import { DOCUMENTS, type DocumentEntry, type Noun } from "./documents.js";
import type { Shape } from "./shape.js";

export type JsonSchema = { readonly [key: string]: unknown };

export function schemaOf(noun: Noun): JsonSchema {
  const { tells, shape, commands, hasVersion = true }: DocumentEntry = DOCUMENTS[noun];
  const body = bodyOf(shape) as { properties?: JsonSchema; required?: readonly string[] };
  const version = { version: { const: DOCUMENT_VERSION } };
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $id: `urn:udm:schema:${noun}:${DOCUMENT_VERSION}`,
    title: noun,
    description: `${tells} Printed by: ${commands.join(", ")}.`,
    ...body,
    ...(hasVersion
      ? { properties: { ...version, ...body.properties }, required: ["version", ...(body.required ?? [])] }
      : {}),
  };
}

function bodyOf(shape: Shape): JsonSchema {
  const description = describe(shape);
  const told = description === "" ? {} : { description };
  switch (shape.kind) {
    case "text":
      return { type: "string", ...told };
    case "flag":
      return { type: "boolean", ...told };
    case "count":
    case "bytes":
      return { type: "integer", minimum: 0, ...told };
    case "number":
      return { type: "number", ...told };
    case "percent":
      return { type: "number", minimum: 0, ...told };
    case "any":
      return { ...told };
    case "true":
      return { const: true, ...told };
    case "word":
      return { enum: shape.words, ...told };
    case "list":
      return { type: "array", items: bodyOf(shape.of), ...told };
    case "orNull":
      return { anyOf: [bodyOf({ ...shape.of, tells: "" } as Shape), { type: "null" }], ...told };
    case "optional":
      return bodyOf(shape.of);
    case "record": {
      const fields = Object.entries(shape.fields);
      const required = fields.filter(([, field]) => field.kind !== "optional").map(([key]) => key);
      const need = shape.isSelection === true ? { minProperties: 1 } : { required };
      const properties = Object.fromEntries(fields.map(([key, field]) => [key, bodyOf(field)]));
      return { type: "object", properties, ...need, ...told };
    }
  }
}

function describe(shape: Shape): string {
  const unit = shape.kind === "bytes" ? "bytes" : shape.kind === "percent" ? "percent" : "";
  return [shape.tells, unit].filter((part) => part !== "").join(", ");
}
