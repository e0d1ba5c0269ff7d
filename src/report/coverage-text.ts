/** Coverage as text: what was reached by context, what was not, and the minimum corpus. */

import { escapeControls } from './escape.ts';
import { counted, countText, tableLines } from './table.ts';

export interface ContextLine {
  readonly context: string;
  readonly reached: number;
  readonly known: number;
  readonly unreachable: number;
}

export interface UnreachedCell {
  readonly name: string;
  /** Why no trace can reach it. */
  readonly unreachable?: string | undefined;
}

export interface MinimumLine {
  readonly trace: string;
  readonly adds: number;
  readonly first: readonly string[];
  readonly total: number;
}

/** `66.7%`, rounded down, so that nothing but all is 100%. */
function share(reached: number, known: number): string {
  if (known === 0) return '-';
  return `${(Math.floor((1000 * reached) / known) / 10).toFixed(1)}%`;
}

/** Cells by context, and their sum. */
export function coverageLines(contexts: readonly ContextLine[], traces: number): string[] {
  const sum = contexts.reduce(
    (all, { reached, known, unreachable }) => ({
      reached: all.reached + reached,
      known: all.known + known,
      unreachable: all.unreachable + unreachable,
    }),
    { reached: 0, known: 0, unreachable: 0 },
  );
  const row = (name: string, { reached, known, unreachable }: typeof sum): string[] => [
    name,
    countText(reached),
    countText(known),
    share(reached, known),
    countText(unreachable),
  ];
  return [
    `cells that ${counted(traces, 'trace')} ${traces === 1 ? 'reaches' : 'reach'}`,
    ...tableLines(
      [
        ['context', 'reached', 'known', '', 'unreachable'],
        ...contexts.map((each) => row(each.context, each)),
        row('all', sum),
      ],
      ['left', 'right', 'right', 'right', 'right'],
      2,
    ),
  ];
}

/** Cells that no trace reached, a line for each check; then those that none can, by reason. */
export function unreachedLines(cells: readonly UnreachedCell[]): string[] {
  const checks = new Map<string, string[]>();
  const reasons = new Map<string, string[]>();
  for (const { name, unreachable } of cells) {
    const [context = '', check = '', ...place] = name.split('/');
    if (unreachable === undefined) {
      const key = `${context}/${check}`;
      checks.set(key, [...(checks.get(key) ?? []), place.join('/')]);
    } else {
      reasons.set(unreachable, [...(reasons.get(unreachable) ?? []), name]);
    }
  }
  const lines: string[] = [];
  if (checks.size > 0) {
    lines.push('not reached');
    lines.push(
      ...tableLines(
        [...checks].map(([check, places]) => [check, places.join(' ')]),
        ['left', 'left'],
        2,
      ),
    );
  }
  if (reasons.size > 0) lines.push('not to be reached by any trace');
  for (const [reason, names] of reasons) {
    lines.push(`  ${reason}`);
    lines.push(...names.map((name) => `    ${name}`));
  }
  return lines;
}

/** What each trace of the minimum corpus adds. `of`: traces that it was chosen from. */
export function minimumLines(chosen: readonly MinimumLine[], of: number): string[] {
  const rows = chosen.map(({ trace, adds, first, total }) => [
    `+${countText(adds)}`,
    countText(total),
    escapeControls(trace),
    `${first.join(' ')}${adds > first.length ? ' …' : ''}`,
  ]);
  return [
    `minimum corpus: ${counted(chosen.length, 'trace')} of ${countText(of)}`,
    ...tableLines(
      [['adds', 'total', 'trace', 'the first of what it adds'], ...rows],
      ['right', 'right', 'left', 'left'],
      2,
    ),
  ];
}
