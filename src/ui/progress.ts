/** A progress bar on a terminal's stderr; nothing anywhere else. */
import { formatBytes } from "../units/index.js";

export interface ProgressBar {
  update(doneBytes: number, totalBytes: number): void;
  /** Takes the bar off the screen. */
  finish(): void;
}

export interface ProgressScreen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const REDRAW_MS = 100;

export function progressBar(
  screen: ProgressScreen,
  options: { readonly label: string; readonly now: () => number; readonly isUtf8: boolean },
): ProgressBar {
  if (screen.isTTY !== true) return { update() {}, finish() {} };
  const started = options.now();
  let drawnAt = Number.NEGATIVE_INFINITY;
  let isDrawn = false;
  return {
    update(doneBytes, totalBytes) {
      const now = options.now();
      if (now - drawnAt < REDRAW_MS && (doneBytes < totalBytes || totalBytes === 0)) return;
      drawnAt = now;
      isDrawn = true;
      const line = barLine({
        ...options,
        doneBytes,
        totalBytes,
        elapsedMs: now - started,
        width: screen.columns || 80,
      });
      screen.write(`\r${line}\u001b[K`);
    },
    finish() {
      if (isDrawn) screen.write("\r\u001b[K");
      isDrawn = false;
    },
  };
}

/**
 * `import base [#####.....]  50% 1G/2G 512M/s 2s left`, never wider than the screen; `import base 1G 512M/s` where nobody
 * knows how much there is (a total of 0).
 */
export function barLine(state: {
  readonly label: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly elapsedMs: number;
  readonly width: number;
  readonly isUtf8: boolean;
}): string {
  const perSecond = state.elapsedMs <= 0 ? 0 : Math.round((state.doneBytes / state.elapsedMs) * 1000);
  if (state.totalBytes === 0) {
    const soFar = `${state.label} ${formatBytes(state.doneBytes)} ${formatBytes(perSecond)}/s`;
    return soFar.slice(0, Math.max(0, state.width - 1));
  }
  const share = Math.min(1, state.doneBytes / state.totalBytes);
  const left = perSecond === 0 ? "" : ` ${Math.ceil((state.totalBytes - state.doneBytes) / perSecond)}s left`;
  const numbers = `${String(Math.floor(share * 100)).padStart(3)}% ${formatBytes(state.doneBytes)}/${formatBytes(state.totalBytes)} ${formatBytes(perSecond)}/s${left}`;
  const room = Math.min(40, state.width - state.label.length - numbers.length - 5);
  if (room < 4) return numbers.slice(0, Math.max(0, state.width - 1));
  const full = Math.round(room * share);
  const [done, open] = state.isUtf8 ? ["█", "░"] : ["#", "."];
  return `${state.label} [${done!.repeat(full)}${open!.repeat(room - full)}] ${numbers}`;
}
