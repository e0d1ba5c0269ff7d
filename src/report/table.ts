/** Rows of text in aligned columns. */

export type Align = 'left' | 'right';

/** Terminal columns of a text: colour sequences take none. Wide characters do not occur in our own output. */
function columns(text: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colour sequences begin with ESC
  return text.replace(/\u001b\[[0-9;]*m/g, '').length;
}

/**
 * One line per row, cells of a column equally wide, two spaces between columns, no space at the end of a line. Rows may
 * have different lengths. `align`: by column; the default is left.
 */
export function tableLines(rows: readonly (readonly string[])[], align: readonly Align[] = [], indent = 0): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, columns(cell));
    });
  }
  return rows.map((row) => {
    const cells = row.map((cell, i) => {
      const space = ' '.repeat((widths[i] ?? 0) - columns(cell));
      return align[i] === 'right' ? space + cell : cell + space;
    });
    return (' '.repeat(indent) + cells.join('  ')).trimEnd();
  });
}

/** `1,234,567`. */
export function countText(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** `1 step`, `1,234 steps`. `noun`: one whose plural is regular. */
export function counted(count: number, noun: string): string {
  return `${countText(count)} ${noun}${count === 1 ? '' : 's'}`;
}
