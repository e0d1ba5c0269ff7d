/** What a check of invariants looks at, and the sentences that it comes to; nothing is changed. */

import type { Host } from './host.ts';
import type { GuestTables, GuestView } from './invariants-of-guest.ts';
import type { ShadowPages } from './pages.ts';
import type { ShadowPage } from './shadow-page.ts';
import type { TdpMmu } from './tdp-mmu.ts';
import type { Vcpu } from './vcpu.ts';

/** A host that can be looked at without bringing anything in. */
export interface InspectedHost extends Host, GuestTables {
  /** The host frame under a guest frame now, whatever its state; -1 without a slot. */
  frameOf(gfn: number, addressSpace: number): number;
}

/** All that is looked at. */
export interface Inspected {
  readonly pages: ShadowPages;
  readonly vcpu: Vcpu;
  /** Where the VM has several: all that there are now. */
  readonly vcpus?: () => readonly Vcpu[];
  readonly tdpMmu: TdpMmu | null;
  readonly host: InspectedHost;
  /**
   * The guest's table in a frame was changed by somebody of whom KVM does not hear (a device, the hypervisor): shadow and
   * table may differ.
   */
  readonly unnoticed?: (gfn: number) => boolean;
}

/** One look at all tables. */
export class Look {
  readonly pages: ShadowPages;
  readonly vcpus: readonly Vcpu[];
  readonly tdpMmu: TdpMmu | null;
  readonly host: InspectedHost;
  readonly unnoticed: (gfn: number) => boolean;
  readonly view: GuestView;
  readonly all: readonly ShadowPage[];
  readonly found: string[] = [];

  constructor(inspected: Inspected) {
    this.pages = inspected.pages;
    this.vcpus = inspected.vcpus?.() ?? [inspected.vcpu];
    this.tdpMmu = inspected.tdpMmu;
    this.host = inspected.host;
    this.unnoticed = inspected.unnoticed ?? (() => false);
    const { features } = this.vcpus[0]!.guestMmu.walk;
    this.view = { guest: this.host, unnoticed: this.unnoticed, features };
    this.all = inspected.pages.all();
  }

  say(sentence: string): void {
    this.found.push(sentence);
  }

  /** What is wrong with an entry. */
  entry(sp: ShadowPage, index: number, what: string): void {
    const { pages } = this;
    const sptep = sp.sptep(index);
    this.say(`entry ${index} (${hex64(pages.lo(sptep), pages.hi(sptep))}) of ${nameOf(sp)} ${what}`);
  }

  /** The table in a host frame, or null. */
  pageAt(frame: number): ShadowPage | null {
    try {
      return this.pages.pageAtFrame(frame);
    } catch {
      return null;
    }
  }

  /** The table that an SPTE is in, or null. */
  tableOf(sptep: number): ShadowPage | null {
    try {
      return this.pages.pageOf(sptep);
    } catch {
      return null;
    }
  }
}

export function nameOf(sp: ShadowPage): string {
  return `the level-${sp.level} table for gfn ${sp.gfn.toString(16)}, role ${(sp.role >>> 0).toString(16)}`;
}

function hex64(lo: number, hi: number): string {
  return hi === 0 ? (lo >>> 0).toString(16) : `${(hi >>> 0).toString(16)}${(lo >>> 0).toString(16).padStart(8, '0')}`;
}
