/** A root of the tables that an MMU built, and what it belongs to (facts/kvm-mmu.md §8.2). */

import type { ShadowPage } from './shadow-page.ts';

export interface Root {
  /** CR3, EPTP or nCR3 that it was made for; exact as a double. */
  readonly pgd: number;
  /** The root table; null for a PAE root, which is no shadow page. */
  readonly page: ShadowPage | null;
  /** The four tables of a PAE root; null where a PDPTE is not present. */
  readonly pae: readonly (ShadowPage | null)[] | null;
}

/** In place of a guest's root that is in no memslot (7.3): it leads nowhere, whatever its level (facts/kvm-mmu.md §8.2). */
export const DUMMY_ROOT: Root = { pgd: 0, page: null, pae: [null, null, null, null] };

/** Roots kept beside the current one. */
export const PREVIOUS_ROOTS = 3;
