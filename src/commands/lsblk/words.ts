/** How lsblk writes what could break its lines: control characters, blanks and quotes become `\xHH`. */

const hex = (text: string) => [...Buffer.from(text)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");

/** For a table: a backslash that would read as an escape is one itself; without UTF-8 nothing beyond ASCII is printed. */
export function tableText(text: string, isUtf8: boolean): string {
  if (/^[\x20-\x5b\x5d-\x7e]*$/.test(text)) return text;
  const safe = text.replaceAll(/\\(?=x)|\p{Cc}|\p{Cn}|\p{Cs}/gu, hex);
  return isUtf8 ? safe : safe.replaceAll(/[^\x20-\x7e]+/g, hex);
}

/** For -r: one word, never with a blank in it. */
export function rawWord(text: string): string {
  return text.replaceAll(/[^\x21-\x5b\x5d-\x7e]+|\\/g, hex);
}

/** For -P: between double quotes, safe to be read by a shell. */
export function quotedText(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]+|["\\`$]/g, hex);
}

/** For -y: a heading that is a shell variable's name. */
export function shellName(heading: string): string {
  return heading.replaceAll("%", "_PCT").replaceAll(/[^A-Za-z0-9_]/g, "_");
}

/** Columns on a terminal: wide characters take two, combining ones none. */
export function displayWidth(text: string): number {
  if (/^[\x20-\x7e]*$/.test(text)) return text.length;
  let width = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (/\p{Mn}|\p{Me}|\p{Cf}/u.test(character)) continue;
    width += isWide(code) ? 2 : 1;
  }
  return width;
}

function isWide(code: number): boolean {
  return (
    (code >= 0x1100 && code <= 0x115f) ||
    (code >= 0x2e80 && code <= 0xa4cf && code !== 0x303f) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1faff) ||
    (code >= 0x20000 && code <= 0x3fffd)
  );
}
