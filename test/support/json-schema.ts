/**
 * Checks a value against the JSON Schemas of `udm schema`: the keywords they use and no other, so that a new one cannot
 * pass unseen. Stricter than a schema asks: a key that it does not name is a fault.
 */
type Schema = { readonly [keyword: string]: unknown };

const KNOWN = [
  ...["$schema", "$id", "title", "description", "type", "properties", "required", "items", "anyOf", "enum", "const"],
  ...["minimum", "minProperties"],
];

/** @returns what is wrong, each with the place of it; empty when nothing is */
export function faultsOf(schema: Schema, value: unknown, at = "$"): readonly string[] {
  const faults: string[] = [];
  for (const keyword of Object.keys(schema)) if (!KNOWN.includes(keyword)) faults.push(`${at}: keyword ${keyword}`);
  if (schema.anyOf !== undefined) {
    const all = (schema.anyOf as readonly Schema[]).map((each) => faultsOf(each, value, at));
    if (!all.some((each) => each.length === 0)) faults.push(...all.flat());
  }
  if ("const" in schema && value !== schema.const) faults.push(`${at}: ${JSON.stringify(value)} is not the constant`);
  if (schema.enum !== undefined && !(schema.enum as unknown[]).includes(value))
    faults.push(`${at}: ${value} not listed`);
  if (schema.type !== undefined && !isOf(schema.type as string, value)) {
    return [...faults, `${at}: ${JSON.stringify(value)} is no ${schema.type}`];
  }
  if (typeof schema.minimum === "number" && (value as number) < schema.minimum)
    faults.push(`${at}: ${value} too small`);
  if (schema.type === "array") {
    for (const [index, item] of (value as unknown[]).entries()) {
      faults.push(...faultsOf(schema.items as Schema, item, `${at}[${index}]`));
    }
  }
  if (schema.type === "object") faults.push(...faultsOfObject(schema, value as Readonly<Record<string, unknown>>, at));
  return faults;
}

function faultsOfObject(schema: Schema, value: Readonly<Record<string, unknown>>, at: string): readonly string[] {
  const properties = schema.properties as Readonly<Record<string, Schema>>;
  const missing = ((schema.required ?? []) as string[]).filter((key) => !(key in value));
  const least = (schema.minProperties as number | undefined) ?? 0;
  return [
    ...missing.map((key) => `${at}: no ${key}`),
    ...(Object.keys(value).length < least ? [`${at}: too few keys`] : []),
    ...Object.entries(value).flatMap(([key, each]) =>
      properties[key] === undefined ? [`${at}: unknown key ${key}`] : faultsOf(properties[key], each, `${at}.${key}`),
    ),
  ];
}

function isOf(type: string, value: unknown): boolean {
  switch (type) {
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "integer":
      return Number.isSafeInteger(value);
    default:
      return typeof value === type;
  }
}
