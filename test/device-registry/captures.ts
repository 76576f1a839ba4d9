/** Reads the captures of dmsetup: one record a command. Format: README of test/golden/captures. */
import { readFileSync } from "node:fs";

export interface Capture {
  /** `~`: set-up, not captured. */
  readonly kind: "setup" | "command";
  readonly command: string;
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
  readonly log: readonly string[];
  readonly status: number;
}

export function readCaptures(path: string | URL): Capture[] {
  const captures: { -readonly [K in keyof Capture]: Capture[K] extends readonly string[] ? string[] : Capture[K] }[] =
    [];
  for (const line of readFileSync(path, "utf8").split("\n")) {
    const text = line.slice(2);
    const last = captures.at(-1);
    switch (line[0]) {
      case "~":
      case "$":
        captures.push({
          kind: line[0] === "~" ? "setup" : "command",
          command: text,
          stdout: [],
          stderr: [],
          log: [],
          status: 0,
        });
        break;
      case "+":
        last!.command += `\n${text}`;
        break;
      case ">":
        last!.stdout.push(text);
        break;
      case "!":
        last!.stderr.push(text);
        break;
      case "%":
        last!.log.push(text);
        break;
      case "=":
        last!.status = Number(text);
        break;
    }
  }
  return captures;
}
