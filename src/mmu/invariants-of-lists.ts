/** Which shadow pages there are: the lists that they are found through, and what is counted of them (facts/kvm-6.1.md §2.1). */

import { isInvalid, smm } from '../paging/kvm-roles.ts';
import { type Look, nameOf } from './invariants-look.ts';
import { pagesOf, type ShadowPage } from './shadow-page.ts';
import { frameKey } from './slot-state.ts';

export function checkLists(look: Look): void {
  const { pages } = look;
  const { profile } = pages.config;
  const legacy = look.all.filter((sp) => !sp.tdp);
  if (pages.used !== legacy.length) look.say(`${pages.used} pages count as used, there are ${legacy.length}`);
  const active = new Set<ShadowPage>();
  let last: ShadowPage | null = null;
  for (const sp of pages.active()) {
    if (active.has(sp)) {
      look.say(`the list of active pages comes back to ${nameOf(sp)}`);
      break;
    }
    active.add(sp);
    if (sp.newer !== last) look.say(`${nameOf(sp)} does not know its neighbour in the list of active pages`);
    last = sp;
  }
  if (pages.oldestActive !== last) look.say('the list of active pages does not end with the oldest');
  let hashed = 0;
  for (const [gfn, list] of pages.hashed) {
    hashed += list.length;
    for (const sp of list) {
      if (sp.gfn !== gfn || sp.tdp) look.say(`${nameOf(sp)} is found under gfn ${gfn.toString(16)}`);
    }
    if (new Set(list).size !== list.length) look.say(`a page of gfn ${gfn.toString(16)} is found twice`);
  }
  if (hashed !== legacy.length) look.say(`${hashed} pages can be found by gfn, there are ${legacy.length}`);
  for (const sp of legacy) {
    if (pages.hashed.get(sp.gfn)?.includes(sp) !== true) look.say(`${nameOf(sp)} cannot be found by its gfn`);
    const isActive = !isInvalid(sp.role, profile);
    if (active.has(sp) !== isActive || sp.listed !== isActive) {
      look.say(`${nameOf(sp)} is ${isActive ? 'not' : 'still'} in the list of active pages`);
    }
    if (isActive && sp.generation !== pages.generation) look.say(`${nameOf(sp)} is of an older generation`);
    if (!isActive && sp.rootCount === 0) look.say(`${nameOf(sp)} is invalid, nobody holds it, and it is still there`);
  }
}

/** Write-track counts, reasons against large pages, and the number of indirect pages are those of the pages there are. */
export function checkCounters(look: Look): void {
  const { pages } = look;
  const expected = [new Map<number, number>(), new Map<number, number>(), new Map<number, number>()];
  let indirect = 0;
  for (const sp of look.all) {
    if (!pages.hasGptes(sp) || isInvalid(sp.role, pages.config.profile)) continue;
    indirect++;
    const space = smm(sp.role);
    if (look.host.slotOf(sp.gfn, space) === null) look.say(`${nameOf(sp)} shadows a table that has no slot`);
    if (sp.level > 1) increment(expected[0]!, frameKey(sp.gfn, space));
    for (const level of [2, 3]) increment(expected[level - 1]!, frameKey(Math.floor(sp.gfn / pagesOf(level)), space));
  }
  if (indirect !== pages.indirect) look.say(`${pages.indirect} indirect pages are counted, there are ${indirect}`);
  for (const level of [1, 2, 3] as const) {
    const is = pages.slotState.counts(level);
    const should = expected[level - 1]!;
    const what = level === 1 ? 'write-track count' : `count of reasons against pages of level ${level}`;
    for (const key of new Set([...is.keys(), ...should.keys()])) {
      if (is.get(key) === should.get(key)) continue;
      look.say(`the ${what} at ${key.toString(16)} is ${is.get(key) ?? 0}, not ${should.get(key) ?? 0}`);
    }
  }
}

function increment(counts: Map<number, number>, key: number): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
