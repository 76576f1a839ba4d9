/** The data device of a pool as a picture: each character is a stretch of blocks, darker the fuller it is. */

export interface PictureRun {
  readonly dataBlock: number;
  readonly count: number;
  readonly mappings: number;
}

const CELLS_PER_LINE = 64;
const MAX_LINES = 16;
const SHADES_UTF8 = ["·", "░", "▒", "▓", "█"];
const SHADES_ASCII = [".", "-", "+", "*", "#"];

export interface Picture {
  readonly blocksPerCell: number;
  readonly lines: readonly { readonly firstBlock: number; readonly cells: string }[];
  /** Free, then four steps up to full. */
  readonly shades: readonly string[];
  /** Stretch that holds a block with more than one user. */
  readonly sharedMark: string;
}

export function drawPicture(totalBlocks: number, runs: readonly PictureRun[], isUtf8: boolean): Picture {
  const shades = isUtf8 ? SHADES_UTF8 : SHADES_ASCII;
  const sharedMark = isUtf8 ? "◆" : "%";
  const blocksPerCell = Math.max(1, Math.ceil(totalBlocks / (CELLS_PER_LINE * MAX_LINES)));
  const cellCount = Math.ceil(totalBlocks / blocksPerCell);
  const used = new Float64Array(cellCount);
  const shared = new Uint8Array(cellCount);
  for (const run of runs) {
    let block = run.dataBlock;
    const end = run.dataBlock + run.count;
    while (block < end) {
      const cell = Math.floor(block / blocksPerCell);
      const cellEnd = Math.min(end, (cell + 1) * blocksPerCell);
      used[cell] = (used[cell] ?? 0) + cellEnd - block;
      if (run.mappings > 1) shared[cell] = 1;
      block = cellEnd;
    }
  }
  const cells = Array.from(used, (count, index) => {
    if (shared[index] === 1) return sharedMark;
    const size = Math.min(blocksPerCell, totalBlocks - index * blocksPerCell);
    return shades[count === 0 ? 0 : Math.max(1, Math.floor((count / size) * 4))]!;
  });
  const lines: { firstBlock: number; cells: string }[] = [];
  for (let start = 0; start < cells.length; start += CELLS_PER_LINE) {
    lines.push({ firstBlock: start * blocksPerCell, cells: cells.slice(start, start + CELLS_PER_LINE).join("") });
  }
  return { blocksPerCell, lines, shades, sharedMark };
}
