import { writeFiles } from "./schema-files.js";

writeFiles();
