/** Watches what KVM translates with: the roots of its MMUs, and its walks in software, whose rows are signed. */

import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { Mmu } from '../mmu/mmu.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { cover, coverLog } from './cover.ts';
import { nameOfMmu, nameOfWalk, rootText } from './explain-names.ts';
import { type Notes, roleWord, type SeenWord, type WalkBegun } from './explain-seen.ts';
import type { ContextName } from './explanation.ts';

/** Watches one of a vCPU's two MMUs. */
export function watchMmu(notes: Notes, vcpu: Vcpu, mmu: Mmu): void {
  const name = nameOfMmu(vcpu, mmu);
  cover(mmu, 'init', (call: () => boolean, kind: string, role: number) => {
    const done = call();
    if (done) notes.note(name, 'setup', `is to build ${kind} tables with the root role`, roleWord(role));
    return done;
  });
  cover(mmu, 'load', (call: () => boolean) => {
    const done = call();
    notes.note(
      name,
      'root',
      done ? `loads ${rootText(mmu.root)}` : 'finds no memslot for a table of the root: the guest cannot run',
    );
    return done;
  });
  cover(mmu, 'newPgd', (call: () => boolean, pgd: number) => {
    const hit = call();
    const what = hit ? 'finds a cached root' : 'has no cached root';
    notes.note(name, 'root', `${what} for the guest's root 0x${pgd.toString(16)}`);
    return hit;
  });
  cover(mmu, 'freeCurrent', (call: () => void) => {
    if (mmu.root !== null) notes.note(name, 'root', `lets go of its current root, ${rootText(mmu.root)}`);
    call();
  });
  cover(mmu, 'freePrevious', (call: () => void) => {
    const before = [...mmu.previous];
    call();
    const gone = before.filter((root, i) => root !== null && mmu.previous[i] === null);
    for (const root of gone) notes.note(name, 'root', `lets go of a previous root, ${rootText(root)}`);
  });
  cover(mmu, 'syncRoots', (call: () => void) => {
    notes.note(name, 'root', 'synchronises the tables of its current root with the guest');
    call();
  });
}

/** Watches one of a vCPU's walks in software. */
export function watchWalk(notes: Notes, vcpu: Vcpu, walk: KvmPageWalk): void {
  const context = nameOfWalk(vcpu, walk);
  cover(walk, 'setUp', (call: () => void) => {
    call();
    const word: SeenWord = { format: 'role', lo: walk.base >>> 0, hi: walk.ext >>> 0, level: 0 };
    const keys = walk.keyMask === 0 ? '' : ', judging protection keys';
    const ad = walk.haveAd ? '' : ', without A and D bits';
    notes.note(context, 'setup', `walks from here on${keys}${ad} by the role`, word);
  });
  coverLog(walk, (op) => {
    if (notes.isOn) signRow(notes, walk, context, op);
  });
}

function signRow(notes: Notes, walk: KvmPageWalk, context: ContextName, op: number): void {
  if ((op & OBS_KIND_MASK) !== Obs.KVM_EVENT) return;
  const begins = notes.isDetailed && kvmEventOf(op) === KvmEvent.PAGETABLE_WALK;
  const begun: WalkBegun | undefined = begins
    ? { ac: walk.ac, rootLevel: walk.rootLevel, hasSecond: walk.second !== null, registers: walk.registers.slice() }
    : undefined;
  const { qualification } = walk.fault;
  notes.walkRows.push({ row: notes.machine.log.count, walk, context, begun, qualification });
}
