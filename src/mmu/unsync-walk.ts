/** Which unsync tables there are below a page, and the ways to them (facts/kvm-6.1.md §2.5). */

import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import type { SpteFormat } from './spte.ts';
import type { Tables } from './tables.ts';

/** Pages of a batch, the parent being the first. */
const BATCH = 16;

interface Step {
  readonly sp: ShadowPage;
  readonly index: number;
}

export interface UnsyncBatch {
  readonly pages: { readonly sp: ShadowPage; readonly way: readonly Step[] }[];
  left: number;
}

/**
 * Collects up to a batch of unsync leaf tables below a page, in order of their entries; ways to them are remembered
 * so that the counts on them can be taken back (facts/kvm-6.1.md §2.5).
 */
export function collectUnsync(pages: Tables & { readonly format: SpteFormat }, parent: ShadowPage): UnsyncBatch {
  const batch: UnsyncBatch = { pages: [], left: 0 };
  if (parent.unsyncChildren === 0) return batch;
  batch.left = BATCH - 1;
  collect(pages, parent, [], batch);
  return batch;
}

/** Unsync leaves found below; -1 when the batch is full. */
function collect(
  pages: Tables & { readonly format: SpteFormat },
  sp: ShadowPage,
  way: readonly Step[],
  batch: UnsyncBatch,
): number {
  let found = 0;
  for (let index = 0; index < ENTRIES; index++) {
    if (!sp.hasUnsyncBit(index)) continue;
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    if (!pages.format.isPresent(lo) || (lo & 0x80) !== 0) {
      sp.clearUnsyncBit(index);
      continue;
    }
    const child = pages.childOf(lo, pages.hi(sptep));
    const here = [...way, { sp, index }];
    if (child.unsyncChildren > 0) {
      if (--batch.left === 0) return -1;
      const below = collect(pages, child, here, batch);
      if (below === 0) sp.clearUnsyncBit(index);
      else if (below > 0) found += below;
      else return -1;
    } else if (child.unsync) {
      found++;
      if (batch.pages.some((entry) => entry.sp === child)) continue;
      batch.pages.push({ sp: child, way: here });
      if (--batch.left === 0) return -1;
    } else {
      sp.clearUnsyncBit(index);
    }
  }
  return found;
}

/** The way to a table that is in step again: counts on it are taken back as far as nothing else needs them. */
export function clearParents(way: readonly Step[]): void {
  for (let at = way.length - 1; at >= 0; at--) {
    const { sp, index } = way[at]!;
    if (sp.hasUnsyncBit(index)) sp.clearUnsyncBit(index);
    if (sp.unsyncChildren > 0) return;
  }
}
