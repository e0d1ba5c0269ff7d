/**
 * Host-physical frames for guest pages: single ones, runs of 2 MiB and regions of 1 GiB, each aligned to its size.
 * A frame is given out once and never again, so that it stands for one page and one epoch of it for good.
 *
 * | frames                    | for                                  |
 * | ------------------------- | ------------------------------------ |
 * | 0x800 - 0x9ff             | roots that are no shadow pages (`root-state.ts`) |
 * | 0x1000 - 0x3_ffff         | single frames                        |
 * | 0x4_0000 - 0x1f_ffff      | seven regions                        |
 * | 0x20_0000 - 0x27_ffff     | runs                                 |
 * | 0x28_0000 - 0x2f_ffff     | single frames                        |
 * | 0x30_0000 - 0x3f_ffff     | the MMU's own tables (`TABLE_FRAMES`) |
 * | from 0x40_0000            | runs, and single frames out of runs  |
 */

import { Problem } from '../../bits/problem.ts';
import { TABLE_FRAMES } from '../../mmu/table-memory.ts';

export const RUN_FRAMES = 1 << 9;
export const REGION_FRAMES = 1 << 18;

const FIRST_SINGLE = 0x1000;
const FIRST_REGION = 0x4_0000;
const FIRST_RUN = 0x20_0000;
const SECOND_SINGLE = 0x28_0000;
const FIRST_FAR = 0x40_0000;

export class HostFrames {
  /** First frame that the host's physical addresses do not reach. */
  private readonly end: number;
  private nextSingle = FIRST_SINGLE;
  private endOfSingles = FIRST_REGION;
  private nextRegion = FIRST_REGION;
  private nextRun = FIRST_RUN;

  /** `maxphyaddr`: width of the host's physical addresses in bits, 36 or more. Throws E_UNSOUND. */
  constructor(maxphyaddr: number) {
    if (maxphyaddr < 36 || maxphyaddr > 52) {
      throw new Problem('E_UNSOUND', `a host cannot have physical addresses of ${maxphyaddr} bits`);
    }
    this.end = 2 ** (maxphyaddr - 12);
  }

  /** One frame. Throws E_LIMIT, as the others do. */
  takeSingle(): number {
    if (this.nextSingle === this.endOfSingles) {
      if (this.endOfSingles === FIRST_REGION) {
        this.nextSingle = SECOND_SINGLE;
        this.endOfSingles = TABLE_FRAMES;
      } else {
        this.nextSingle = this.takeRun();
        this.endOfSingles = this.nextSingle + RUN_FRAMES;
      }
    }
    return this.nextSingle++;
  }

  /** First of 512 aligned frames. */
  takeRun(): number {
    if (this.nextRun === SECOND_SINGLE) this.nextRun = FIRST_FAR;
    if (this.nextRun >= this.end) {
      throw new Problem(
        'E_LIMIT',
        'the guest touches more memory than the host has physical addresses for',
        {},
        'check how the trace was made',
      );
    }
    const run = this.nextRun;
    this.nextRun += RUN_FRAMES;
    return run;
  }

  /** First of 2^18 aligned frames, or -1: there are no more. */
  takeRegion(): number {
    if (this.nextRegion === FIRST_RUN) return -1;
    const region = this.nextRegion;
    this.nextRegion += REGION_FRAMES;
    return region;
  }
}
