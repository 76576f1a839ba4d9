/** Sizes that the format allows. Source: thin-engine 4.4. */
export const MIN_DATA_BLOCK_SECTORS_ON_DISK = 128;
export const MAX_DATA_BLOCK_SECTORS_ON_DISK = 2097152;
