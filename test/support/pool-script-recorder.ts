import type { PoolModel } from "./pool-model.js";
import type { PoolScript, PoolShape, PoolStep } from "./pool-script.js";

/** Writes a script down while a model carries it out, with what the model says to questions. */
export class PoolScriptRecorder {
  readonly #shape: PoolShape;
  readonly #steps: PoolStep[] = [];
  readonly #expected: Record<number, string> = {};
  /** Without zeroing a new block shows what its data block held before, which the model does not know. */
  readonly #knowsBytes: boolean;

  /** @param model of a pool that is opened now; it is changed */
  constructor(readonly model: PoolModel) {
    model.reopen();
    this.#shape = model.presentShape;
    this.#knowsBytes = !this.#shape.features.includes("skip_block_zeroing");
  }

  do(...steps: readonly PoolStep[]): this {
    for (const step of steps) {
      this.model.apply(step);
      if (step.kind === "sum" && this.#knowsBytes) this.#expected[this.#steps.length] = this.model.sum(step.id);
      if (step.kind === "thin-status") this.#expected[this.#steps.length] = this.model.thinStatus(step.id);
      this.#steps.push(step);
    }
    return this;
  }

  /** Writes that start in a block each, with one flush behind them. */
  write(id: number, blocks: readonly number[], options: { readonly seed: number; readonly pages?: number }): this {
    const { blockBytes } = this.model;
    const lengthBytes = options.pages === undefined ? blockBytes : options.pages * 4096;
    const { seed } = options;
    return this.do(
      ...blocks.map((block): PoolStep => ({ kind: "write", id, offsetBytes: block * blockBytes, lengthBytes, seed })),
      { kind: "flush", id },
    );
  }

  script(name: string): PoolScript {
    return { name, shape: this.#shape, steps: this.#steps, expected: this.#expected };
  }
}

/** Steps that look at every byte of every device. */
export function sumAll(model: PoolModel): PoolStep[] {
  return [...model.thins.keys()].flatMap((id): PoolStep[] =>
    model.active.has(id)
      ? [{ kind: "sum", id }]
      : [
          { kind: "activate", id },
          { kind: "sum", id },
          { kind: "thin-status", id },
          { kind: "deactivate", id },
        ],
  );
}
