/** Colour, only where a person looks at it: a terminal, and NO_COLOR not set. chalk is read only then. */

export type Paint = (text: string) => string;

export interface Palette {
  readonly error: Paint;
  readonly hint: Paint;
  readonly good: Paint;
  readonly warning: Paint;
  /** The line of a list that is chosen. */
  readonly chosen: Paint;
}

const plain: Paint = (text) => text;
const PLAIN: Palette = { error: plain, hint: plain, good: plain, warning: plain, chosen: plain };

export async function paletteFor(
  stream: { readonly isTTY?: boolean },
  environment: Readonly<Record<string, string | undefined>>,
): Promise<Palette> {
  if (stream.isTTY !== true || (environment.NO_COLOR ?? "") !== "" || environment.TERM === "dumb") return PLAIN;
  const { Chalk } = await import("chalk");
  const chalk = new Chalk({ level: 1 });
  return { error: chalk.red, hint: chalk.dim, good: chalk.green, warning: chalk.yellow, chosen: chalk.inverse };
}
