/** Walking over metadata with the keys: one block on the screen, the way to it above, what the keys do below. */
import type { OpenedMetadata } from "../../host/index.js";
import { BlockStore, type DescribedBlock, describeBlock, firstStep, type Step } from "../../thin/index.js";
import { type Palette, Screen, type ScreenLine } from "../../ui/index.js";
import type { Context } from "../context.js";
import { headingOf, hexLines, listOf } from "./explore-text.js";

const INTERRUPTED = 130;
const KEYS = "arrows move, Enter follows ->, Backspace back, / BLOCK, x bytes, q quits";
const KEYS_NARROW = "Enter Backspace / x q";

/** A block on the way, and where the eye was on it. */
interface Place {
  readonly step: Step;
  cursor: number;
  top: number;
}

interface Row {
  readonly text: string;
  readonly target: Step | undefined;
}

export async function exploreOnScreen(context: Context, opened: OpenedMetadata): Promise<void> {
  const interrupt = context.takeInterrupt();
  const palette = await context.palette("stdout");
  using screen = new Screen(context.streams.stdin, context.streams.stdout);
  const onAbort = () => screen.press("interrupt");
  interrupt.addEventListener("abort", onAbort, { once: true });
  try {
    const isInterrupted = await new Explorer(screen, palette, opened).run();
    if (isInterrupted) context.exitWith(INTERRUPTED);
  } finally {
    interrupt.removeEventListener("abort", onAbort);
  }
}

class Explorer {
  readonly #screen: Screen;
  readonly #palette: Palette;
  readonly #opened: OpenedMetadata;
  readonly #way: Place[];
  #described!: DescribedBlock;
  #rows: readonly Row[] = [];
  #showsBytes = false;
  /** What is typed behind the slash; undefined: nothing is. */
  #typed: string | undefined;
  #message = "";
  #hasMoved = false;

  constructor(screen: Screen, palette: Palette, opened: OpenedMetadata) {
    this.#screen = screen;
    this.#palette = palette;
    this.#opened = opened;
    this.#way = [{ step: firstStep(opened.superblock), cursor: 0, top: 0 }];
    this.#load();
  }

  /** @returns whether it was ended by an interrupt */
  async run(): Promise<boolean> {
    for (;;) {
      this.#draw();
      const key = await this.#screen.key();
      if (key === "interrupt") return true;
      if (key === "end of input") return false;
      if (key === "resize") continue;
      this.#message = "";
      if (this.#typed !== undefined) this.#edit(key);
      else if (key === "q") return false;
      else this.#act(key);
    }
  }

  get #place(): Place {
    return this.#way.at(-1)!;
  }

  /** Lines between the heads and the foot. */
  get #room(): number {
    return Math.max(1, this.#screen.rows - this.#heads().length - 1);
  }

  #act(key: string): void {
    const page = Math.max(1, this.#room - 1);
    switch (key) {
      case "up":
      case "k":
        return this.#move(-1);
      case "down":
      case "j":
        return this.#move(1);
      case "pageup":
        return this.#move(-page);
      case "pagedown":
      case " ":
        return this.#move(page);
      case "home":
        return this.#move(Number.NEGATIVE_INFINITY);
      case "end":
        return this.#move(Number.POSITIVE_INFINITY);
      case "enter":
      case "right":
        return this.#follow();
      case "backspace":
      case "left":
      case "b":
        return this.#back();
      case "/":
        this.#typed = "";
        return;
      case "x":
        this.#showsBytes = !this.#showsBytes;
        this.#place.cursor = 0;
        this.#load();
    }
  }

  #move(by: number): void {
    const last = Math.max(0, this.#rows.length - 1);
    this.#place.cursor = Math.min(last, Math.max(0, this.#place.cursor + by));
  }

  #follow(): void {
    const target = this.#rows[this.#place.cursor]?.target;
    if (target === undefined) this.#message = "this line leads nowhere";
    else this.#go(target);
  }

  #go(step: Step): void {
    if (!this.#opened.store.isInside(step.block)) {
      this.#message = `no block ${step.block}, there are ${this.#opened.store.nrBlocks}`;
      return;
    }
    this.#showsBytes = false;
    this.#way.push({ step, cursor: 0, top: 0 });
    this.#load();
  }

  #back(): void {
    if (this.#way.length === 1) {
      this.#message = "this is where it began";
      return;
    }
    this.#showsBytes = false;
    this.#way.pop();
    this.#load();
  }

  /** The number behind the slash, with `goto` before it for who types that. */
  #edit(key: string): void {
    const typed = this.#typed!;
    if (key === "escape") this.#typed = undefined;
    else if (key === "backspace") this.#typed = typed === "" ? undefined : typed.slice(0, -1);
    else if (key === "enter") {
      this.#typed = undefined;
      const [, block] = /^(?:goto)?\s*(\d{1,15})\s*$/.exec(typed) ?? [];
      if (block === undefined) this.#message = `'${typed}' is no number of a block`;
      else this.#go(Number(block) === 0 ? firstStep(0) : { block: Number(block), role: undefined });
    } else if (key.length === 1 && key >= " ") this.#typed = typed + key;
  }

  /** Read anew each time: others may be changing it. */
  #load(): void {
    const store = new BlockStore(this.#opened.device);
    const { block, role } = this.#place.step;
    this.#described = describeBlock(store, block, role)!;
    const { fields, entries, bytes } = this.#described;
    const all = [...fields, ...entries];
    this.#rows = this.#showsBytes
      ? hexLines(bytes).map((text) => ({ text: `  ${text}`, target: undefined }))
      : listOf(all).map((text, index) => ({ text, target: all[index]!.target }));
    try {
      this.#opened.confirm();
    } catch {
      this.#hasMoved = true;
    }
  }

  #heads(): readonly ScreenLine[] {
    const { problems } = this.#described;
    const steps = this.#way.map(({ step }) => step);
    const { error, warning } = this.#palette;
    const moved = this.#hasMoved ? [{ text: "it changes while it is looked at", paint: warning }] : [];
    return [
      { text: headingOf(this.#described, steps) },
      ...problems.map((problem) => ({ text: `damaged: ${problem}`, paint: error })),
      ...moved,
    ];
  }

  #draw(): void {
    const place = this.#place;
    const room = this.#room;
    this.#move(0);
    if (place.cursor < place.top) place.top = place.cursor;
    if (place.cursor >= place.top + room) place.top = place.cursor - room + 1;
    place.top = Math.max(0, Math.min(place.top, this.#rows.length - room));
    const shown = this.#rows.slice(place.top, place.top + room).map(({ text }, index): ScreenLine => {
      const isChosen = place.top + index === place.cursor;
      return isChosen ? { text: `>${text.slice(1)}`, paint: this.#palette.chosen } : { text };
    });
    const blanks = Array.from({ length: room - shown.length }, () => ({ text: "" }));
    this.#screen.draw([...this.#heads(), ...shown, ...blanks, this.#foot()]);
  }

  #foot(): ScreenLine {
    const { hint, warning } = this.#palette;
    if (this.#typed !== undefined) return { text: `/${this.#typed}` };
    if (this.#message !== "") return { text: this.#message, paint: warning };
    const count = this.#rows.length === 0 ? "" : `${this.#place.cursor + 1}/${this.#rows.length}  `;
    const keys = count.length + KEYS.length <= this.#screen.columns ? KEYS : KEYS_NARROW;
    return { text: `${count}${keys}`, paint: hint };
  }
}
