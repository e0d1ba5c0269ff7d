/** Which cells a walk of EPT reaches: presence, misconfigurations, rights, A and D bits. */

import { AccessType } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import { OF_TABLE, TYPE_BITS, TYPE_SHIFT } from '../paging/access.ts';
import { Check, type PageWalk } from '../paging/page-walk.ts';
import { ENTRY_PS, type Entries, type Rule, soleOf } from './coverage-entries.ts';
import type { Checks } from './coverage-set.ts';

export const EPT_A = 1 << 8;
export const EPT_D = 1 << 9;
const EPT_USER_EXECUTE = 1 << 10;

/** A walk of EPT is through, or has failed. `nested`: the word of the row that it began with. */
export function reachEpt(
  ept: Checks,
  machine: BareMachine,
  walk: PageWalk,
  second: Entries,
  nested: number,
  failed: boolean,
): void {
  const ofTable = (nested & OF_TABLE) !== 0;
  const type = (nested & TYPE_BITS) >>> TYPE_SHIFT;
  const check = failed ? walk.faultCheck : Check.NONE;
  const leaf = second.last;
  for (const level of second.levels) {
    const here = level === leaf;
    const absent = here && check === Check.PRESENT;
    ept.reach('present', absent ? 'fail' : 'pass', level);
    if (absent) continue;
    const bad = here && check === Check.RESERVED;
    ept.reach('misconfig', bad ? 'fail' : 'pass', level);
    if (bad) misconfigured(ept, machine, walk, second, level);
  }
  if (check === Check.LOG_FULL) ept.reach('pml', 'full');
  if (check === Check.PRESENT || check === Check.RESERVED) return;
  const { all } = second;
  const write = type === AccessType.WRITE || type === AccessType.RMW || (ofTable && walk.ad);
  const fetch = type === AccessType.FETCH;
  const outcome = check === Check.PERMISSION ? 'fail' : 'pass';
  if (ofTable) ept.reach('of-table', outcome, leaf);
  const userPage = walk.mbec && (nested & (1 << 17)) !== 0;
  const execute = userPage ? EPT_USER_EXECUTE : 4;
  const rules: Rule[] = [
    ['read', !fetch && !write && (all & 1) === 0],
    ['write', write && (all & 2) === 0],
    ['fetch', fetch && (all & execute) === 0],
  ];
  if (outcome === 'fail') {
    const sole = soleOf(rules);
    if (sole === undefined) return;
    ept.reach(sole, sole === 'fetch' && userPage ? 'fail-user-page' : 'fail', leaf);
    const bit = sole === 'read' ? 1 : sole === 'write' ? 2 : execute;
    const at = second.withholds(bit);
    if (at !== 0) ept.reach(`withheld-${sole === 'fetch' ? 'execute' : sole}`, 'fail', at);
    return;
  }
  ept.reach(fetch ? 'fetch' : write ? 'write' : 'read', fetch && userPage ? 'pass-user-page' : 'pass', leaf);
  for (const level of second.levels) {
    if (!walk.ad) ept.reach('accessed', 'off', level);
    else if ((second.lo[level]! & EPT_A) !== 0) ept.reach('accessed', 'was-set', level);
  }
  if (!write) return;
  if (!walk.ad) ept.reach('dirty', 'off', leaf);
  else if ((second.lo[leaf]! & EPT_D) !== 0) ept.reach('dirty', 'was-set', leaf);
}

function misconfigured(ept: Checks, machine: BareMachine, walk: PageWalk, second: Entries, level: number): void {
  const [lo, hi] = [second.lo[level]!, second.hi[level]!];
  const executable = 4 | (walk.mbec ? EPT_USER_EXECUTE : 0);
  const large = level === 1 || ((lo & ENTRY_PS) !== 0 && level <= 3);
  const type = (lo >>> 3) & 7;
  const { features } = machine;
  const bare = level === 2 ? !features.ept2m : level === 3 ? !features.ept1g : true;
  const sole = soleOf([
    ['misconfig-write-only', (lo & 3) === 2],
    ['misconfig-execute-only', (lo & 3) === 0 && (lo & executable) !== 0 && !features.eptExecuteOnly],
    ['misconfig-memory-type', large && (type === 2 || type === 3 || type === 7)],
    ['misconfig-low-bits', (!large && (lo & 0x78) !== 0) || (level >= 2 && (lo & ENTRY_PS) !== 0 && bare)],
    ['misconfig-address', (hi & walk.format.reservedHi) !== 0],
    ['misconfig-large-page', large && level > 1 && (lo & ((1 << (3 + 9 * level)) - 1) & ~0xfff) !== 0],
  ]);
  if (sole !== undefined) ept.reach(sole, 'fail', level);
}
