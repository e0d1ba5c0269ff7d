/** One of KVM's walks while its rows are read: what it goes by, what its entries have come to, and how it failed. */

import { EFER_NXE, Reg, SECONDARY_MBEC } from '../formats/registers.ts';
import { FETCH, USER, WRITE } from '../paging/access.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { EXT_EXECONLY } from '../paging/kvm-roles.ts';
import { type Asked, type EptMode, guestMode, nptMode, type RightsMode } from './explain-rules.ts';
import type { WalkBegun } from './explain-seen.ts';
import type { ContextName, ExplainedCheck, WalkNode } from './explanation.ts';
import type { Row } from './result.ts';

/** What the rows do not tell of the access. */
export interface SoftwareHints {
  /** The step's access is an implicit supervisor one. */
  readonly implicit: boolean;
}

export interface Frame {
  readonly walk: KvmPageWalk;
  readonly context: ContextName;
  readonly begun: WalkBegun;
  readonly start: Row;
  readonly nodes: WalkNode[];
  readonly checks: ExplainedCheck[];
  /** Translates a table's address for another walk; otherwise its final one, or it is nobody's. */
  ofTable: boolean;
  allLo: number;
  anyHi: number;
  leafHi: number;
  readonly leafLo: number;
  readonly aboveLo: number;
  reachedLeaf: boolean;
  entryFailed: boolean;
  setAccessed: boolean;
  failed: { readonly code: number; readonly qualification: number } | undefined;
  /** Of the last second-stage walk, till the entry is read that it was for. */
  pending: WalkNode[];
  secondFailed: boolean;
}

/** `outer`: the walk for which this one translates an address. */
export function newFrame(
  { walk, context, begun }: Pick<Frame, 'walk' | 'context' | 'begun'>,
  start: Row,
  outer: Frame | undefined,
): Frame {
  return {
    walk,
    context,
    begun,
    start,
    nodes: [],
    checks: [],
    ofTable: outer !== undefined && !outer.reachedLeaf,
    allLo: -1,
    anyHi: 0,
    leafHi: 0,
    leafLo: 0,
    aboveLo: -1,
    reachedLeaf: false,
    entryFailed: false,
    setAccessed: false,
    failed: undefined,
    pending: [],
    secondFailed: false,
  };
}

/** The rights' mode of a walk in an x86 format, by the registers as they are, whatever the walk's role is. */
export function x86Mode({ walk, begun }: Frame): RightsMode {
  if (walk.ngpa) return nptMode(begun.registers);
  const mode = guestMode(begun.registers);
  // KVM takes EFER.NXE for NX in use also where 32-bit paging has none.
  const nxe = (begun.registers[2 * Reg.EFER]! & EFER_NXE) !== 0;
  // Its walks know nothing of PKS, which it offers to no guest.
  return { ...mode, nxe, pks: false };
}

export function eptMode({ walk, begun }: Frame): EptMode {
  return {
    mbec: walk.profile !== '6.1' && (begun.registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_MBEC) !== 0,
    executeOnly: (walk.ext & EXT_EXECONLY) !== 0,
    maxphyaddr: walk.features.maxphyaddr,
    ad: walk.haveAd,
  };
}

export function askedOf({ walk, start, begun }: Frame, hints: SoftwareHints): Asked {
  const access = start.valueLo;
  const user = (access & USER) !== 0;
  return {
    write: (access & WRITE) !== 0,
    fetch: (access & FETCH) !== 0,
    user,
    implicit: !user && !walk.ngpa && hints.implicit,
    ac: begun.ac,
    shadowStack: false,
  };
}

/** `4-level, each address through tdpWalk`. */
export function modeText({ walk, begun }: Frame): string {
  const levels = begun.rootLevel;
  if (walk.ept) return `EPT of ${levels} levels`;
  const own = levels === 2 ? '32-bit' : levels === 3 ? 'PAE' : `${levels}-level`;
  if (walk.ngpa) return `NPT, ${own}`;
  return begun.hasSecond ? `${own}, each address through tdpWalk` : own;
}
