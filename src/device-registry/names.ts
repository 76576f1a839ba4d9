/**
 * Names and uuids of mapped devices. Any byte but `/` and NUL is legal; what libdevmapper would not let stand is
 * rewritten to `\xHH` in paths, and both forms name the same device.
 */
import { StateError } from "../errors/index.js";

const MAX_NAME_BYTES = 127;
const MAX_UUID_BYTES = 128;
const REWRITTEN = /\\x[0-9a-fA-F]{2}/g;

/** The name as people write it, from either form. @throws StateError EINVAL */
export function parseName(text: string, what = "name"): string {
  if (text === "") throw invalid(`${what} is empty`, "a name has 1 to 127 bytes");
  if (text.includes("/")) throw invalid(`${what} "${text}" invalid: it contains "/"`, "leave the slash out");
  return decode(text, what, MAX_NAME_BYTES);
}

export function parseUuid(text: string): string {
  return text === "" ? "" : decode(text, "uuid", MAX_UUID_BYTES);
}

/** The form under which the name appears in `/dev/mapper`. */
export function mangle(text: string): string {
  return [...Buffer.from(text)]
    .map((byte) => {
      const character = String.fromCharCode(byte);
      return /[0-9A-Za-z#+\-.:=@_]/.test(character) ? character : `\\x${byte.toString(16).padStart(2, "0")}`;
    })
    .join("");
}

/** What either form stands for; a text that is neither is returned as it is. For looking names up, not for making them. */
export function unmangle(text: string): string {
  if (text.search(REWRITTEN) < 0) return text;
  const bytes: number[] = [];
  for (let at = 0; at < text.length; ) {
    const hex = /^\\x([0-9a-fA-F]{2})/.exec(text.slice(at, at + 4));
    if (hex === null) {
      const character = String.fromCodePoint(text.codePointAt(at)!);
      bytes.push(...Buffer.from(character));
      at += character.length;
    } else {
      bytes.push(Number.parseInt(hex[1]!, 16));
      at += 4;
    }
  }
  return Buffer.from(bytes).toString();
}

/** Byte order, as the driver lists devices. */
export function compareNames(left: string, right: string): number {
  return Buffer.compare(Buffer.from(left), Buffer.from(right));
}

function decode(text: string, what: string, maxBytes: number): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: NUL is the one byte, beside the slash, that no name holds
  if (/\x00/.test(text)) throw invalid(`${what} holds a NUL byte`, "leave it out");
  const plain = unmangle(text);
  if (plain !== text) {
    if (/\\x5cx/i.test(text)) {
      throw invalid(`the ${what} "${text}" seems to be mangled more than once`, "write it as it should read");
    }
    if (mangle(text.replaceAll(REWRITTEN, "")) !== text.replaceAll(REWRITTEN, "")) {
      throw invalid(
        `the ${what} "${text}" contains mixed mangled and unmangled characters`,
        "write it as it should read, without \\x",
      );
    }
  }
  const bytes = mangle(plain).length;
  if (bytes > maxBytes) {
    throw invalid(`${what} "${text}" too long: ${bytes} bytes, at most ${maxBytes}`, "choose a shorter one");
  }
  return plain;
}

function invalid(message: string, hint: string): StateError {
  return new StateError("EINVAL", message, { hint });
}
