/** Which cells a walk in an x86 format reaches, of CR3's tables or of NPT: presence, reserved bits, rights, A and D bits. */

import { Dim } from '../formats/observation.ts';
import { CR0_WP, CR4_PKE, CR4_PKS, CR4_SMAP, CR4_SMEP, EFER_NXE, Reg } from '../formats/registers.ts';
import { AccessType } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import {
  FETCH,
  NOT_SMAP,
  OF_TABLE,
  PFEC_PK,
  SHADOW_STACK,
  TYPE_BITS,
  TYPE_SHIFT,
  USER,
  WRITE,
} from '../paging/access.ts';
import { Check, type PageWalk } from '../paging/page-walk.ts';
import { ENTRY_A, ENTRY_D, ENTRY_PS, ENTRY_U, ENTRY_W, type Entries, formatName, soleOf } from './coverage-entries.ts';
import type { Checks } from './coverage-set.ts';

/** Whether the entry read at a level of CR3's tables maps a page. */
export function isLeaf(walk: PageWalk, guest: Entries, level: number): boolean {
  return level === 1 || ((guest.lo[level]! & ENTRY_PS) !== 0 && level <= 3 && (!walk.fourByte || walk.pse));
}

/** A walk of CR3's tables is through. `failed`: the walk, its own or its second stage's, that failed. */
export function reachGuest(
  cpu: Checks,
  machine: BareMachine,
  guest: Entries,
  access: number,
  failed: PageWalk | null,
): void {
  const walk = machine.cpuWalk;
  const leaf = guest.last;
  if (leaf === 0) return;
  const check = failed === walk ? walk.faultCheck : Check.NONE;
  reachEntries(cpu, walk, guest, check);
  if (walk.rootLevel === 3 && guest.levels[0] === 3)
    cpu.reach('pdpte', check === Check.PRESENT && leaf === 3 ? 'memory-absent' : 'memory-present');
  if (check === Check.PRESENT || check === Check.RESERVED) return;
  // Where the second stage ended it before its leaf was read, rights were never judged.
  if (!isLeaf(walk, guest, leaf)) return;
  reachRights(cpu, machine, guest, access, leaf, check === Check.PERMISSION);
  if (failed === null) reachAd(cpu, guest, leaf, (access & WRITE) !== 0);
}

/** A walk of NPT is through, or has failed. `nested`: the word of the row that it began with. */
export function reachNpt(npt: Checks, walk: PageWalk, second: Entries, nested: number, failed: boolean): void {
  npt.reach('format', formatName(walk.rootLevel));
  const ofTable = (nested & OF_TABLE) !== 0;
  const type = (nested & TYPE_BITS) >>> TYPE_SHIFT;
  const check = failed ? walk.faultCheck : Check.NONE;
  const leaf = second.last;
  if (leaf === 0) return;
  reachEntries(npt, walk, second, check);
  if (check === Check.PRESENT || check === Check.RESERVED) return;
  const { all, noExecute } = second;
  const write = type === AccessType.WRITE || type === AccessType.RMW || ofTable;
  const fetch = type === AccessType.FETCH;
  if (ofTable) npt.reach('of-table', check === Check.NONE ? 'pass' : 'fail', leaf);
  const supervisorPage = (all & ENTRY_U) === 0;
  if (check === Check.PERMISSION) {
    const gmet = walk.gmet && fetch;
    const sole = soleOf([
      ['user', supervisorPage && !walk.gmet],
      ['write', write && (all & ENTRY_W) === 0],
      ['fetch', fetch && noExecute],
      ['gmet', gmet && !supervisorPage],
    ]);
    if (sole === undefined) return;
    npt.reach(sole, 'fail', leaf);
    reachWithheld(npt, sole, second);
    return;
  }
  if (!supervisorPage) npt.reach('user', 'pass', leaf);
  else if (walk.gmet) npt.reach('gmet', 'pass-supervisor-page', leaf);
  if (write) npt.reach('write', 'pass', leaf);
  if (fetch) npt.reach('fetch', 'pass', leaf);
  reachAd(npt, second, leaf, write);
}

function reachWithheld(of: Checks, rule: string, entries: Entries): void {
  const at =
    rule === 'user'
      ? entries.withholds(ENTRY_U)
      : rule === 'write'
        ? entries.withholds(ENTRY_W)
        : rule === 'fetch'
          ? entries.noExecuteAt
          : 0;
  if (at !== 0) of.reach(`withheld-${rule === 'fetch' ? 'execute' : rule}`, 'fail', at);
}

function reachAd(of: Checks, entries: Entries, leaf: number, write: boolean): void {
  const pae = entries.levels[0] === 3;
  for (const level of entries.levels) {
    if (pae && level === 3) continue;
    if ((entries.lo[level]! & ENTRY_A) !== 0) of.reach('accessed', 'was-set', level);
  }
  if (write && (entries.lo[leaf]! & ENTRY_D) !== 0) of.reach('dirty', 'was-set', leaf);
}

function reachEntries(of: Checks, walk: PageWalk, entries: Entries, check: number): void {
  for (const level of entries.levels) {
    const here = level === entries.last;
    const absent = here && check === Check.PRESENT;
    of.reach('present', absent ? 'fail' : 'pass', level);
    if (absent) continue;
    const bad = here && check === Check.RESERVED;
    of.reach('reserved', bad ? 'fail' : 'pass', level);
    if (bad) reachReserved(of, walk, level, entries.lo[level]!, entries.hi[level]!);
  }
}

function reachReserved(of: Checks, walk: PageWalk, level: number, lo: number, hi: number): void {
  const { reserved } = walk.format;
  const index = level + ((lo >>> 7) & 1) * 6;
  const badLo = lo & reserved.lo[index]!;
  const badHi = hi & reserved.hi[index]!;
  const pae = walk.rootLevel === 3;
  const sole = soleOf([
    ['reserved-nx', badHi < 0 && !(pae && level === 3)],
    ['reserved-address', (badHi & 0xf_ffff) !== 0],
    ['reserved-pae-high', pae && level < 3 && (badHi & 0x7ff0_0000) !== 0],
    ['reserved-page-size', !(pae && level === 3) && level >= 3 && (badLo & ENTRY_PS) !== 0],
    ['reserved-bit-8', !pae && level >= 4 && (badLo & 0x100) !== 0],
    ['reserved-large-page', (badLo & 0x3fff_f000) !== 0],
    ['reserved-pdpte', pae && level === 3 && (badLo !== 0 || (badHi & ~0xf_ffff) !== 0)],
  ]);
  if (sole === undefined || (walk.dim !== Dim.GUEST && (sole === 'reserved-pae-high' || sole === 'reserved-pdpte')))
    return;
  of.reach(sole, 'fail', level);
}

function reachRights(
  cpu: Checks,
  machine: BareMachine,
  guest: Entries,
  access: number,
  leaf: number,
  failed: boolean,
): void {
  const walk = machine.cpuWalk;
  const { all, noExecute } = guest;
  const [cr0, cr4, efer] = [machine.register(Reg.CR0), machine.register(Reg.CR4), machine.register(Reg.EFER)];
  const has = (bit: number): boolean => (access & bit) !== 0;
  const [write, user, fetch] = [has(WRITE), has(USER), has(FETCH)];
  const userPage = (all & ENTRY_U) !== 0;
  const writable = (all & ENTRY_W) !== 0;
  const [smep, smap] = [(cr4 & CR4_SMEP) !== 0, (cr4 & CR4_SMAP) !== 0];
  cpu.reach('rights', failed ? 'fail' : 'pass', leaf);
  if (has(SHADOW_STACK)) {
    cpu.reach('rights-shadow-stack', failed ? 'fail' : 'pass', leaf);
    return;
  }
  const key = (walk.errorCode & PFEC_PK) !== 0;
  if (failed) {
    const sole = soleOf([
      ['user', user && !userPage],
      ['write', write && !writable && (user || (cr0 & CR0_WP) !== 0)],
      ['fetch', fetch && noExecute && (efer & EFER_NXE) !== 0],
      ['smep', fetch && !user && userPage && smep],
      ['smap', !fetch && !user && userPage && smap && !has(NOT_SMAP)],
      ['key', key && userPage],
      ['supervisor-key', key && !userPage],
    ]);
    if (sole === undefined) return;
    cpu.reach(`rights-${sole}`, sole === 'write' && !user ? 'fail-wp' : 'fail', leaf);
    reachWithheld(cpu, sole, guest);
    return;
  }
  if (user) cpu.reach('rights-user', 'pass', leaf);
  if (write) cpu.reach('rights-write', writable ? 'pass' : 'pass-wp0', leaf);
  if (fetch) cpu.reach('rights-fetch', 'pass', leaf);
  if (!user && userPage && fetch) cpu.reach('rights-smep', 'pass-off', leaf);
  if (!user && userPage && !fetch) cpu.reach('rights-smap', smap ? 'pass-ac' : 'pass-off', leaf);
  if (fetch || walk.format.keyMask === 0) return;
  if (userPage && (cr4 & CR4_PKE) !== 0) cpu.reach('rights-key', 'pass', leaf);
  if (!userPage && (cr4 & CR4_PKS) !== 0) cpu.reach('rights-supervisor-key', 'pass', leaf);
}
