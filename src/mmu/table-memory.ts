/** Host-physical memory as the MMU uses it: pages of 1024 words in one array, found by host frame number. */

import type { PhysicalMemory } from '../paging/memory.ts';

export interface Memory extends PhysicalMemory {
  /** Index in `words` of the first word of a frame's page, which is taken (zeroed) if nobody wrote it yet. May replace `words`. */
  pageOf(frame: number): number;
}

/** Host frames from here on are the MMU's own tables; guest pages lie below, or far above. */
export const TABLE_FRAMES = 0x30_0000;
/** The last of them is never a table, and so all zeros: where a processor is sent that must find nothing. */
export const ZERO_FRAME = 0x3f_ffff;
