/**
 * Shapes of JSON documents, declared once as plain values: TypeScript's type of a document and its JSON Schema both come
 * from them. A field that is not there when it does not apply is `optional`; one whose value is not known is `orNull`.
 */
import type { Column } from "../report.js";

export type Shape =
  | { readonly kind: "text" | "flag" | "count" | "bytes" | "percent" | "number" | "any"; readonly tells: string }
  | { readonly kind: "word"; readonly tells: string; readonly words: readonly string[] }
  | { readonly kind: "true"; readonly tells: string }
  | { readonly kind: "list"; readonly tells: string; readonly of: Shape }
  | { readonly kind: "record"; readonly tells: string; readonly fields: Fields; readonly isSelection?: boolean }
  | { readonly kind: "orNull" | "optional"; readonly tells: string; readonly of: Shape };

export type Fields = Readonly<Record<string, Shape>>;

export const text = (tells = "") => ({ kind: "text", tells }) as const;
export const flag = (tells = "") => ({ kind: "flag", tells }) as const;
/** A whole number from 0 on. */
export const count = (tells = "") => ({ kind: "count", tells }) as const;
/** A number that a damaged superblock may have put there: not always whole, null above 2^53. */
export const number = (tells = "") => orNull({ kind: "count", tells } as const);
export const bytes = (tells = "") => ({ kind: "bytes", tells }) as const;
export const percent = (tells = "") => ({ kind: "percent", tells }) as const;
export const any = (tells = "") => ({ kind: "any", tells }) as const;
export const always = (tells = "") => ({ kind: "true", tells }) as const;
export const word = <const W extends readonly string[]>(words: W, tells = "") =>
  ({ kind: "word", tells, words }) as const;
export const list = <const S extends Shape>(of: S, tells = "") => ({ kind: "list", tells, of }) as const;
export const record = <const F extends Fields>(fields: F, tells = "") => ({ kind: "record", tells, fields }) as const;
export const orNull = <const S extends Shape>(of: S) => ({ kind: "orNull", tells: of.tells, of }) as const;
export const optional = <const S extends Shape>(of: S) => ({ kind: "optional", tells: of.tells, of }) as const;

type OptionalKeys<F extends Fields> = { [K in keyof F]: F[K] extends { kind: "optional" } ? K : never }[keyof F];

/** The type of what a shape describes. */
export type ValueOf<S> = S extends { kind: "text" }
  ? string
  : S extends { kind: "flag" }
    ? boolean
    : S extends { kind: "count" | "bytes" | "percent" | "number" }
      ? number
      : S extends { kind: "true" }
        ? true
        : S extends { kind: "word"; words: readonly (infer W)[] }
          ? W
          : S extends { kind: "list"; of: infer Of }
            ? readonly ValueOf<Of>[]
            : S extends { kind: "orNull"; of: infer Of }
              ? ValueOf<Of> | null
              : S extends { kind: "optional"; of: infer Of }
                ? ValueOf<Of> | undefined
                : S extends { kind: "record"; fields: infer F extends Fields }
                  ? RecordOf<F>
                  : unknown;

export type RecordOf<F extends Fields> = {
  readonly [K in Exclude<keyof F, OptionalKeys<F>>]: ValueOf<F[K]>;
} & {
  readonly [K in OptionalKeys<F>]?: ValueOf<F[K]>;
};

// Rows of reports: their columns say it all

type KnownCell<K> = K extends "text"
  ? string
  : K extends "number" | "bytes" | "percent"
    ? number
    : K extends "flag"
      ? boolean
      : readonly string[];

type AnyColumn = Pick<Column<never>, "key" | "kind" | "heading" | "mayBeUnknown">;

/** The type of a report's row in JSON. */
export type RowOf<C extends readonly AnyColumn[]> = {
  readonly [Each in C[number] as Each["key"]]:
    | KnownCell<Each["kind"]>
    | (Each extends { mayBeUnknown: true } ? null : never);
};

/** A row has the keys of the columns; with `-o` only those that were named. */
export function rowShape(columns: readonly AnyColumn[]): Extract<Shape, { kind: "record" }> {
  const fields = columns.map((column): [string, Shape] => {
    const known = cellShape(column);
    return [column.key, column.mayBeUnknown === true ? orNull(known) : known];
  });
  return { kind: "record", tells: "", fields: Object.fromEntries(fields), isSelection: true };
}

function cellShape({ kind, heading }: AnyColumn): Shape {
  const tells = `column ${heading}`;
  switch (kind) {
    case "list":
      return list(text(), tells);
    case "number":
      return count(tells);
    default:
      return { kind, tells };
  }
}
