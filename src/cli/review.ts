/** What both kinds of review share: names, and which of them were asked for. */

import { Problem } from '../bits/problem.ts';
import { suggestion } from './suggest.ts';

export interface Review {
  readonly names: readonly string[];
  readonly all: boolean;
  /** Print in full, write nothing. */
  readonly show: boolean;
  /** Reviewed without a terminal. */
  readonly yes: boolean;
}

/** Whether the review only looks. */
export function isListing({ names, all, show }: Review): boolean {
  return show || (!all && names.length === 0);
}

/**
 * The items that are asked for: all, or those that a name fits. `fits` tells how well: whole names before ends of paths.
 * Throws E_USAGE for a name that fits nothing, or several items equally well where `several` is not allowed.
 */
export function chosen<T>(
  items: readonly T[],
  { names, all, show }: Review,
  nameOf: (item: T) => string,
  fits: (item: T, name: string) => boolean,
  several: boolean,
): T[] {
  if (all || (show && names.length === 0)) return [...items];
  const found = new Set<T>();
  for (const name of names) {
    const whole = items.filter((item) => nameOf(item) === name);
    const fitting = whole.length > 0 ? whole : items.filter((item) => fits(item, name));
    if (fitting.length === 0) {
      const near = suggestion(name, items.map(nameOf));
      throw new Problem(
        'E_USAGE',
        `nothing on the list is called ${JSON.stringify(name)}`,
        {},
        near === undefined ? 'the command without names lists what there is' : `did you mean ${near}?`,
      );
    }
    if (fitting.length > 1 && !several) {
      const some = fitting.slice(0, 3).map(nameOf).join(', ');
      throw new Problem(
        'E_USAGE',
        `${JSON.stringify(name)} fits ${fitting.length} names: ${some}`,
        {},
        'give more of it',
      );
    }
    for (const item of fitting) found.add(item);
  }
  return items.filter((item) => found.has(item));
}
