/** What a walk of the guest's guest shows of its registers: its root is what the second stage is asked for first. */

import type { TraceEvent } from '../ftrace/event.ts';
import type { TableFormat } from './second-stage.ts';
import { WalkShape } from './walk-shape.ts';

/** `levels` 0: paging is off. `root`: `undefined` where registers hold the first entries. */
export interface ShownPaging {
  readonly levels: number;
  readonly root: bigint | undefined;
}

/** `following`: what comes behind the beginning of a walk of `address`. `undefined`: it shows nothing. */
export function nestedWalkShown(
  address: bigint,
  following: Iterable<TraceEvent>,
  second: TableFormat,
): ShownPaging | undefined {
  let root: bigint | undefined;
  let shape: WalkShape | undefined;
  for (const event of following) {
    if (event.name === 'kvm_mmu_pagetable_walk') {
      if (shape !== undefined) return undefined;
      root = event.addr;
      shape = new WalkShape(address, root, 8, second);
      shape.takesWalk(root);
    } else if (event.name === 'kvm_mmu_paging_element') {
      if (shape === undefined) {
        // The second stage's tables at once, or the PDPTE registers of PAE paging.
        return event.level < second.levels && event.level === 3 ? { levels: 3, root } : { levels: 0, root };
      }
      if (!shape.isInner(event.level, event.pte)) return { levels: event.level, root };
    } else if (event.name === 'kvm_mmu_walker_error') {
      return undefined;
    }
  }
  return undefined;
}
