export { type Palette, paletteFor } from "./colour.js";
export { drawPicture, type Picture, type PictureRun, type PictureScreen, wrapParts } from "./picture.js";
export { barLine, type ProgressBar, progressBar } from "./progress.js";
export { askYesNo } from "./prompt.js";
export { Screen, type ScreenInput, type ScreenLine, type ScreenOutput, splitKeys } from "./screen.js";
export { formatDecimalSize, formatPercent, percentOf } from "./sizes.js";
export { editDistance, nearestWord } from "./suggest.js";
export { renderTable, type TableColumn } from "./table.js";
export { drawTree, isUtf8Locale, type TreeLine, treeGlyphs } from "./tree.js";
