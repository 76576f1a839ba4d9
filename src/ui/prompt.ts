/** Questions to a person at a terminal. */

export interface Terminal {
  readonly input: NodeJS.ReadableStream;
  readonly output: NodeJS.WritableStream;
}

/** Asks a yes/no question; anything but y or yes is no. */
export async function askYesNo(terminal: Terminal, question: string): Promise<boolean> {
  // Few commands ask, and readline takes a command's start longer.
  const { createInterface } = await import("node:readline");
  const lines = createInterface({ input: terminal.input, output: terminal.output });
  return new Promise((resolve) => {
    lines.once("close", () => resolve(false));
    lines.question(`${question} [y/N] `, (answer) => {
      resolve(/^y(es)?$/i.test(answer.trim()));
      lines.close();
    });
  });
}
