/** `npm run man`: writes the generated sections of the pages. */
import { writeFileSync } from "node:fs";
import { MAN, PAGES, regenerate } from "./pages.js";

for (const name of PAGES) writeFileSync(`${MAN}${name}`, await regenerate(name));
