/** What an INVLPG of a stranger's trace was about, as far as a later walk of the same page shows it. */

import { pageFaultOf, type Unit } from './exit-units.ts';

export interface ShownInvlpg {
  readonly address: bigint;
  /** The entries that the next walk of it read. */
  readonly elements: readonly { readonly level: number; readonly pte: bigint }[];
}

/** `told`: its address; if no event tells that, likely the next address that turns out not to be present. */
export async function invlpgShown(
  next: AsyncIterable<Unit>,
  told: bigint | undefined,
): Promise<ShownInvlpg | undefined> {
  for await (const unit of next) {
    if (told === undefined && unit.exit?.reason === 'invlpg') return undefined;
    const fault = pageFaultOf(unit);
    const address = told ?? (fault !== undefined && (fault.errorCode & 1n) === 0n ? fault.address : undefined);
    if (address === undefined) continue;
    const { events } = unit;
    const at = events.findIndex(
      (each) => each.name === 'kvm_mmu_pagetable_walk' && each.addr >> 12n === address >> 12n,
    );
    if (at < 0 && told !== undefined) continue;
    const elements: { level: number; pte: bigint }[] = [];
    for (const event of at < 0 ? [] : events.slice(at + 1)) {
      if (event.name !== 'kvm_mmu_paging_element') break;
      elements.push(event);
    }
    return { address, elements };
  }
  return undefined;
}
