/**
 * On-disk structs, declared once as a table of fields. The table refuses gaps, overlaps and a wrong total when the module
 * loads, and gives offsets, accessors without allocation, and whole-struct read and write.
 */
import { invariant } from "../errors/index.js";
import { getU64, type ReadView, setU64 } from "./u64.js";

type Kind = "u16" | "u32" | "u64" | "bytes";

export interface Field<T> {
  readonly kind: Kind;
  readonly offset: number;
  readonly size: number;
  readonly meaning: string;
  /** Phantom: the type a value of this field has. */
  readonly type?: T;
}

export function u16(offset: number, meaning: string): Field<number> {
  return { kind: "u16", offset, size: 2, meaning };
}

export function u32(offset: number, meaning: string): Field<number> {
  return { kind: "u32", offset, size: 4, meaning };
}

export function u64(offset: number, meaning: string): Field<number> {
  return { kind: "u64", offset, size: 8, meaning };
}

/** Bytes kept as they are: uuids, padding, numbers we never compute with. */
export function bytes(offset: number, size: number, meaning: string): Field<Uint8Array> {
  return { kind: "bytes", offset, size, meaning };
}

type Fields = Record<string, Field<number> | Field<Uint8Array>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;
type Accessors<F extends Fields> = { readonly [K in keyof F]: (view: ReadView, base?: number) => ValueOf<F[K]> };
type Setters<F extends Fields> = {
  readonly [K in keyof F]: (view: DataView, value: ValueOf<F[K]>, base?: number) => void;
};

export interface Struct<F extends Fields> {
  readonly name: string;
  readonly size: number;
  readonly fields: F;
  /** One reader per field; `base` is where the struct starts in the view. */
  readonly get: Accessors<F>;
  readonly set: Setters<F>;
  /** All fields, decoded. Byte fields are copies. */
  read(view: ReadView, base?: number): Values<Struct<F>>;
  /** Sets every byte of the struct. */
  write(view: DataView, values: Values<Struct<F>>, base?: number): void;
}

export type Values<S> = S extends Struct<infer F> ? { readonly [K in keyof F]: ValueOf<F[K]> } : never;

/** Declares a struct of `size` bytes; fields must cover it without gap or overlap, in order. */
export function struct<const F extends Fields>(name: string, size: number, fields: F): Struct<F> {
  let end = 0;
  for (const [key, field] of Object.entries(fields)) {
    invariant(field.offset === end, `${name}.${key} starts at ${field.offset}, wanted ${end}`);
    end += field.size;
  }
  invariant(end === size, `${name} covers ${end} bytes, wanted ${size}`);
  const keys = Object.keys(fields);
  const get = Object.fromEntries(keys.map((key) => [key, reader(fields[key]!)])) as unknown as Accessors<F>;
  const set = Object.fromEntries(keys.map((key) => [key, writer(fields[key]!)])) as unknown as Setters<F>;
  return {
    name,
    size,
    fields,
    get,
    set,
    read: (view, base = 0) => Object.fromEntries(keys.map((key) => [key, get[key]!(view, base)])) as Values<Struct<F>>,
    write(view, values, base = 0) {
      for (const key of keys) set[key]!(view, values[key as keyof typeof values] as ValueOf<F[string]>, base);
    },
  };
}

function reader(field: Field<unknown>): (view: ReadView, base?: number) => never {
  const { kind, offset, size } = field;
  const read = {
    u16: (view: ReadView, base = 0) => view.getUint8(base + offset) + view.getUint8(base + offset + 1) * 256,
    u32: (view: ReadView, base = 0) => view.getUint32(base + offset, true),
    u64: (view: ReadView, base = 0) => getU64(view, base + offset),
    bytes: (view: ReadView, base = 0) => new Uint8Array(view.buffer, view.byteOffset + base + offset, size).slice(),
  }[kind];
  return read as (view: ReadView, base?: number) => never;
}

function writer(field: Field<unknown>): (view: DataView, value: unknown, base?: number) => void {
  const { kind, offset, size } = field;
  return {
    u16: (view: DataView, value: unknown, base = 0) => view.setUint16(base + offset, value as number, true),
    u32: (view: DataView, value: unknown, base = 0) => view.setUint32(base + offset, value as number, true),
    u64: (view: DataView, value: unknown, base = 0) => setU64(view, base + offset, value as number),
    bytes: (view: DataView, value: unknown, base = 0) =>
      new Uint8Array(view.buffer, view.byteOffset + base + offset, size).set(value as Uint8Array),
  }[kind];
}
