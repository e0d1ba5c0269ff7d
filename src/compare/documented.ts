/**
 * Differences between two machines that are documented: a closed list. A step that differs in nothing else is counted by
 * name and changes no verdict. An entry has to say what it covers exactly, and where that is written.
 *
 * The wirings have none. Merged KVM leaves out re-initialisations of the MMU that the walk's pointer needed before
 * (facts/kvm-mmu.md §1.4); these show in no row, since a context is only initialised anew, not its tables.
 */

import type { Difference } from './result.ts';

export interface DocumentedDifference {
  /** Stable kebab-case name. */
  readonly name: string;
  /** Where it is written. */
  readonly citation: string;
  readonly sentence: string;
  /** Whether this is all in which the sides differ. */
  readonly covers: (difference: Difference) => boolean;
}

export const DOCUMENTED: readonly DocumentedDifference[] = [
  {
    name: 'lawful-on-each-side',
    citation: 'src/replay/legal-differences.ts, each entry with its own source; SDM vol. 3A 4.10 for what is stale',
    sentence:
      'each side by itself is what a bare processor may show: the closed list of legal differences, or a translation that was allowed to be stale',
    covers: ({ explained }) => explained,
  },
];
