/** Of the JSON documents. Keys may be added within a version; none goes away or changes its meaning. */
export const DOCUMENT_VERSION = 1;
