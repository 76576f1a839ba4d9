/** Words of plans: commands of the classic tools as a shell takes them. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export function dmsetupCreate(
  name: string,
  table: string,
  options: { readonly readOnly?: boolean; readonly uuid?: string } = {},
): string {
  const words = ["dmsetup", "create", quoted(name)];
  if (options.readOnly === true) words.push("--readonly");
  if (options.uuid !== undefined && options.uuid !== "") words.push("--uuid", quoted(options.uuid));
  return [...words, "--table", `'${table.trimEnd()}'`].join(" ");
}

export function dmsetupReload(name: string, table: string): readonly string[] {
  return [
    `dmsetup suspend ${quoted(name)}`,
    `dmsetup reload ${quoted(name)} --table '${table.trimEnd()}'`,
    `dmsetup resume ${quoted(name)}`,
  ];
}
