/** The memory of an MMU's tables: host frames taken and given back, and which table is in which. */

import { isDirect, roleLevel } from '../paging/kvm-roles.ts';
import type { Host } from './host.ts';
import { ENTRIES, ShadowPage } from './shadow-page.ts';
import { frameOf } from './spte.ts';
import { TABLE_FRAMES } from './table-memory.ts';
import type { MmuTrace } from './trace.ts';

/** A frame becomes a table, or is one no longer; `row`: how many rows the log had then. */
export interface TableUse {
  readonly row: number;
  readonly frame: number;
  readonly taken: boolean;
}

export class Tables {
  readonly host: Host;
  readonly trace: MmuTrace;
  /** High half of an empty entry; the low one is 0. */
  private readonly emptyHi: number;
  /** By index of the page in host memory. */
  private readonly byPage: (ShadowPage | undefined)[] = [];
  private readonly freeFrames: number[] = [];
  private nextFrame = TABLE_FRAMES;
  /** Table frames taken and given back since somebody last looked, in order. */
  readonly tableUses: TableUse[] = [];
  /** Toggled by zap-all-fast: pages of the other generation are obsolete. */
  generation = 0;

  constructor(host: Host, trace: MmuTrace, emptyHi: number) {
    this.host = host;
    this.trace = trace;
    this.emptyHi = emptyHi;
  }

  /** An empty table: a page that nothing knows yet. */
  take(gfn: number, role: number, tdp: boolean): ShadowPage {
    const frame = this.freeFrames.pop() ?? this.nextFrame++;
    const at = this.host.memory.pageOf(frame);
    this.tableUses.push({ row: this.trace.log.count, frame, taken: true });
    const shape = { level: roleLevel(role), direct: isDirect(role), tdp, generation: this.generation };
    const sp = new ShadowPage(at >>> 10, frame, gfn, role, shape);
    this.byPage[sp.page] = sp;
    if (this.emptyHi !== 0) for (let index = 0; index < ENTRIES; index++) this.clear(sp.sptep(index));
    return sp;
  }

  /** A table goes; its frame may be taken again. */
  release(sp: ShadowPage): void {
    const { words } = this.host.memory;
    words.fill(0, sp.page << 10, (sp.page + 1) << 10);
    this.byPage[sp.page] = undefined;
    this.freeFrames.push(sp.frame);
    this.tableUses.push({ row: this.trace.log.count, frame: sp.frame, taken: false });
  }

  /** The table that an SPTE is in. */
  pageOf(sptep: number): ShadowPage {
    const sp = this.byPage[Math.floor(sptep / ENTRIES)];
    if (sp === undefined) throw new Error(`SPTE ${sptep} is in no table`);
    return sp;
  }

  /** The table that a present non-leaf SPTE points at. */
  childOf(lo: number, hi: number): ShadowPage {
    return this.pageAtFrame(frameOf(lo, hi));
  }

  pageAtFrame(frame: number): ShadowPage {
    const sp = this.byPage[this.host.memory.pageOf(frame) >>> 10];
    if (sp === undefined) throw new Error(`frame ${frame.toString(16)} holds no table`);
    return sp;
  }

  lo(sptep: number): number {
    return this.host.memory.words[2 * sptep]!;
  }

  hi(sptep: number): number {
    return this.host.memory.words[2 * sptep + 1]!;
  }

  set(sptep: number, lo: number, hi: number): void {
    const { words } = this.host.memory;
    words[2 * sptep] = lo;
    words[2 * sptep + 1] = hi;
  }

  clear(sptep: number): void {
    this.set(sptep, 0, this.emptyHi);
  }

  isEmpty(sptep: number): boolean {
    return this.lo(sptep) === 0 && this.hi(sptep) === this.emptyHi;
  }

  /** All pages there are, for the invariants. */
  all(): ShadowPage[] {
    return this.byPage.filter((sp) => sp !== undefined);
  }
}
