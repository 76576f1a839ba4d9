/** The data device of a pool as a picture: each character is a stretch of blocks, darker the fuller it is. */

export interface PictureRun {
  readonly dataBlock: number;
  readonly count: number;
  /** 0: only held. */
  readonly mappings: number;
}

export interface PictureScreen {
  readonly isUtf8: boolean;
  /** Width of the terminal; default 80. */
  readonly columns?: number | undefined;
}

const DEFAULT_COLUMNS = 80;
const MAX_CELLS_PER_LINE = 128;
/** Cells of a line come in groups, so that block numbers are round where there is room. */
const CELL_GROUP = 16;
const MAX_LINES = 16;
const UTF8 = { shades: ["·", "░", "▒", "▓", "█"], shared: "◆", held: "○" };
const ASCII = { shades: [".", "-", "+", "*", "#"], shared: "%", held: "o" };

export interface Picture {
  readonly blocksPerCell: number;
  /** Each begins with the number of its first block. */
  readonly lines: readonly string[];
  /** Free, then four steps up to full, all of blocks with one user. */
  readonly shades: readonly string[];
  /** At least half of what is used in the stretch has more than one user. */
  readonly sharedMark: string;
  /** At least half of what is used in the stretch is only held. */
  readonly heldMark: string;
  /** Blocks of the whole device. */
  readonly freeBlocks: number;
  readonly exclusiveBlocks: number;
  readonly sharedBlocks: number;
  readonly heldBlocks: number;
}

export function drawPicture(totalBlocks: number, runs: readonly PictureRun[], screen: PictureScreen): Picture {
  const { shades, shared: sharedMark, held: heldMark } = screen.isUtf8 ? UTF8 : ASCII;
  const labelWidth = String(Math.max(0, totalBlocks - 1)).length;
  const cellsPerLine = cellsThatFit((screen.columns ?? DEFAULT_COLUMNS) - labelWidth - 1);
  const blocksPerCell = Math.max(1, Math.ceil(totalBlocks / (cellsPerLine * MAX_LINES)));
  const cellCount = Math.ceil(totalBlocks / blocksPerCell);
  const counts = {
    exclusive: new Float64Array(cellCount),
    shared: new Float64Array(cellCount),
    held: new Float64Array(cellCount),
  };
  const totals = { exclusive: 0, shared: 0, held: 0 };
  for (const run of runs) {
    const kind = run.mappings > 1 ? "shared" : run.mappings === 1 ? "exclusive" : "held";
    totals[kind] += run.count;
    const end = run.dataBlock + run.count;
    for (let block = run.dataBlock; block < end; ) {
      const cell = Math.floor(block / blocksPerCell);
      const cellEnd = Math.min(end, (cell + 1) * blocksPerCell);
      counts[kind][cell]! += cellEnd - block;
      block = cellEnd;
    }
  }
  const cells = Array.from({ length: cellCount }, (_, cell) => {
    const [exclusive, shared, held] = [counts.exclusive[cell]!, counts.shared[cell]!, counts.held[cell]!];
    const used = exclusive + shared + held;
    if (used === 0) return shades[0]!;
    if (shared * 2 >= used) return sharedMark;
    if (held * 2 >= used) return heldMark;
    const size = Math.min(blocksPerCell, totalBlocks - cell * blocksPerCell);
    return shades[Math.max(1, Math.floor((used / size) * 4))]!;
  });
  const lines: string[] = [];
  for (let start = 0; start < cellCount; start += cellsPerLine) {
    const label = String(start * blocksPerCell).padStart(labelWidth);
    lines.push(`${label} ${cells.slice(start, start + cellsPerLine).join("")}`);
  }
  return {
    blocksPerCell,
    lines,
    shades,
    sharedMark,
    heldMark,
    freeBlocks: totalBlocks - totals.exclusive - totals.shared - totals.held,
    exclusiveBlocks: totals.exclusive,
    sharedBlocks: totals.shared,
    heldBlocks: totals.held,
  };
}

function cellsThatFit(columns: number): number {
  const most = Math.min(MAX_CELLS_PER_LINE, columns);
  return most >= CELL_GROUP ? most - (most % CELL_GROUP) : Math.max(1, most);
}

/** Joins parts into lines no wider than the screen; a part that is wider has a line of its own. */
export function wrapParts(parts: readonly string[], separator: string, columns = DEFAULT_COLUMNS): readonly string[] {
  const lines: string[] = [];
  for (const part of parts) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + separator.length + part.length <= columns) {
      lines[lines.length - 1] = last + separator + part;
    } else lines.push(part);
  }
  return lines;
}
