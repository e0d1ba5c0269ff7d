/** Watches KVM's side of a vCPU: requests, which MMU and tag are in force, faults handled and injected, MMIO remembered. */

import { hexText } from '../bits/word64.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import { RetPf } from '../mmu/fault.ts';
import { Inject } from '../mmu/injection.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { cover } from './cover.ts';
import { gfnText, nameOfWalk, requestNames, tagText } from './explain-names.ts';
import { type Notes, plainWord } from './explain-seen.ts';

const RET_PF_NAMES = Object.fromEntries(Object.entries(RetPf).map(([name, value]) => [value, `RET_PF_${name}`]));
const INJECTED: Readonly<Record<number, string>> = {
  [Inject.PAGE_FAULT]: 'a #PF',
  [Inject.PAGE_FAULT_EXIT]: "an exit for L2's #PF",
  [Inject.NPF]: 'a nested page fault',
  [Inject.EPT_VIOLATION]: 'an EPT violation',
  [Inject.EPT_MISCONFIG]: 'an EPT misconfiguration',
  [Inject.PML_FULL]: 'a full page-modification log',
};
const INFO_NAMES: Readonly<Record<number, string>> = {
  [Inject.NPF]: 'EXITINFO1',
  [Inject.EPT_VIOLATION]: 'qualification',
  [Inject.EPT_MISCONFIG]: 'qualification',
  [Inject.PML_FULL]: 'qualification',
};

/** Watches a vCPU, but for what it is made of. */
export function watchVcpu(notes: Notes, vcpu: Vcpu): void {
  cover(vcpu, 'request', (call: () => void, what: number) => {
    if ((vcpu.requests & what) !== what) notes.note('kvm', 'request', `asks for ${requestNames(what)}`);
    call();
  });
  cover(vcpu, 'serveRequests', (call: () => void) => {
    if (vcpu.requests !== 0)
      notes.note('kvm', 'request', `serves ${requestNames(vcpu.requests)} before the guest runs`);
    call();
  });
  cover(vcpu, 'resetContext', (call: () => void) => {
    notes.note('kvm', 'setup', 'resets the MMU context: all roots go, roles are computed anew');
    call();
  });
  cover(vcpu, 'unload', (call: () => void) => {
    notes.note('kvm', 'root', 'lets go of all roots of both MMUs');
    call();
  });
  cover(vcpu, 'useNestedTdp', (call: () => void, on: boolean) => {
    if (on !== vcpu.nested)
      notes.note('kvm', 'setup', on ? 'puts guestMmu into force (L2 with nested paging)' : 'puts rootMmu into force');
    call();
  });
  cover(vcpu, 'useTag', (call: () => void, tag: number) => {
    if (tag !== vcpu.tag)
      notes.note('kvm', 'setup', `enters the guest with ${tagText(tag, notes.machine.config.vendor)} from here on`);
    call();
  });
  cover(
    vcpu,
    'invalidateAddress',
    (call: () => void, walk: KvmPageWalk, lo: number, hi: number, current: boolean, which: unknown) => {
      const roots = [current ? 'the current root' : '', which === null ? '' : 'previous roots'].filter((s) => s !== '');
      const of = `of the tables that ${nameOfWalk(vcpu, walk)} reads`;
      notes.note('kvm', 'flush', `invalidates the address ${hexText(lo, hi)} ${of}, in ${roots.join(' and ')}`);
      call();
    },
  );
}

/** Watches whoever handles a vCPU's faults. */
export function watchHandler(notes: Notes, handler: KvmMachine['handler'], vcpu: Vcpu): void {
  cover(
    handler,
    'handle',
    (call: () => number, lo: number, hi: number, errorCode: number, _event: boolean, errorHi: number = 0) => {
      if (notes.isOn) notes.addresses.push({ mmu: vcpu.mmu, lo, hi });
      notes.note(
        notes.mmuName,
        'fault',
        `handles the fault at ${hexText(lo, hi)}, error code ${hexText(errorCode, errorHi)}`,
      );
      const done = call();
      notes.note(notes.mmuName, 'fault', `ends it with ${RET_PF_NAMES[done] ?? done}`);
      return done;
    },
  );
  cover(handler, 'injectWalkFault', (call: () => void, walk: KvmPageWalk) => {
    call();
    const { injected } = handler;
    if (injected === null) return;
    const info = INFO_NAMES[injected.kind] ?? 'error code';
    const what = INJECTED[injected.kind] ?? `injection ${injected.kind}`;
    const to = injected.kind === Inject.PAGE_FAULT ? 'the guest' : 'L1';
    const does = `gives ${to} ${what} at ${hexText(injected.lo, injected.hi)} because ${nameOfWalk(vcpu, walk)} failed; ${info}`;
    notes.note('kvm', 'injection', does, plainWord(injected.infoLo, injected.infoHi));
  });
}

/** Watches what a vCPU remembers of MMIO. */
export function watchMmioCache(notes: Notes, cache: Vcpu['mmioCache']): void {
  cover(cache, 'set', (call: () => void, lo: number, hi: number, gfn: number) => {
    const page = lo === 0 && hi === 0 ? 'no linear page' : `linear page ${hexText(lo & ~0xfff, hi)}`;
    notes.note('kvm', 'cache', `remembers ${gfnText(gfn)} as MMIO, with ${page}`);
    call();
  });
  for (const [name, what] of [
    ['matchesGva', 'linear'],
    ['matchesGpa', 'guest-physical'],
  ] as const) {
    cover(cache, name, (call: () => boolean, lo: number, hi: number) => {
      const hit = call();
      if (hit) notes.note('kvm', 'cache', `finds the ${what} address ${hexText(lo, hi)} in the MMIO cache`);
      return hit;
    });
  }
}
