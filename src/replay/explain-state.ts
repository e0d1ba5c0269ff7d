/** What state took part in a step: the SPTEs on the way to an address, what each context is set up for, TLB entries. */

import { hexText } from '../bits/word64.ts';
import { decodeExtendedRole, decodeRole } from '../formats/decode/kvm-role.ts';
import { decodeSpte } from '../formats/decode/kvm-spte.ts';
import type { BareMachine } from '../machine/bare.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import { TLB_DIRTY, TLB_PAGE_SHIFT_SHIFT } from '../machine/tlb.ts';
import type { Mmu } from '../mmu/mmu.ts';
import { ENTRIES } from '../mmu/shadow-page.ts';
import { ShadowWalk } from '../mmu/shadow-walk.ts';
import { Request } from '../mmu/vcpu.ts';
import { gfnText, nameOfMmu, nameOfWalk } from './explain-names.ts';
import type {
  ContextName,
  ExplainedContext,
  ExplainedSpte,
  ExplainedTables,
  ExplainedTlbEntry,
} from './explanation.ts';

const EXTENDED_VALID = 1;

function kindText(machine: KvmMachine, mmu: Mmu): string {
  const { config, vcpu } = machine;
  const tables = config.vendor === 'intel' ? 'EPT' : 'NPT';
  if (mmu === vcpu.guestMmu) return `shadow of L1's ${tables}: L2's guest-physical to physical`;
  if (mmu.kind === 'tdp') return `${tables} tables: guest-physical to physical`;
  return mmu.kind === 'nonpaging'
    ? 'shadow of no paging: linear to physical'
    : "shadow of the guest's tables: linear to physical";
}

/** The SPTEs of an MMU on the way to an address, top down. `before`: those that the step changed. */
export function tablesFor(
  machine: KvmMachine,
  mmu: Mmu,
  lo: number,
  hi: number,
  before: ReadonlyMap<number, readonly [lo: number, hi: number]>,
): ExplainedTables {
  const { pages, config, vcpu } = machine;
  const { root } = mmu;
  const sptes: ExplainedSpte[] = [];
  const walk = new ShadowWalk(pages);
  if (root !== null) {
    for (let on = walk.begin(root, lo | 0, hi | 0); on; on = walk.next()) {
      const { sptep, level } = walk;
      const sp = walk.sp!;
      const word = { lo: pages.lo(sptep) >>> 0, hi: pages.hi(sptep) >>> 0 };
      const old = before.get(sptep);
      const ept = config.vendor === 'intel' && config.tdp;
      const role = decodeRole({ lo: sp.role >>> 0, hi: 0 }, config.profile).short;
      const place = sp.frame * 4096 + (sptep % ENTRIES) * 8;
      sptes.push({
        level,
        place: `0x${place.toString(16).padStart(16, '0')}`,
        value: hexText(word.lo, word.hi),
        ...(old === undefined ? {} : { before: hexText(old[0], old[1]) }),
        decoded: decodeSpte(word, { profile: config.profile, ept, level }).short,
        table: `${gfnText(sp.gfn)}, ${role}${sp.unsync ? ', unsync' : ''}${sp.unsyncChildren > 0 ? `, ${sp.unsyncChildren} unsync below` : ''}`,
      });
    }
  }
  return {
    context: nameOfMmu(vcpu, mmu),
    kind: kindText(machine, mmu),
    address: hexText(lo, hi),
    root: rootText(mmu),
    inForce: vcpu.mmu === mmu,
    sptes,
  };
}

function rootText({ root, previous }: Mmu): string {
  const kept = previous.filter((each) => each !== null).length;
  const others = kept === 0 ? '' : `, ${kept} previous`;
  if (root === null) return `none${others}`;
  const pgd = `0x${root.pgd.toString(16)}`;
  if (root.page === null) return `PAE root for ${pgd}${others}`;
  return `${root.page.direct ? 'direct' : `shadow of ${gfnText(root.page.gfn)}`}, for ${pgd}${others}`;
}

/** What each context is set up for, after the step. */
export function contextsOf(machine: KvmMachine, used: ReadonlySet<ContextName>): ExplainedContext[] {
  const { vcpu, config } = machine;
  const contexts: ExplainedContext[] = [];
  const walks = new Set([vcpu.cpuWalk, ...vcpu.wiring.cpuWalks, vcpu.tdpWalk]);
  for (const walk of walks) {
    const context = nameOfWalk(vcpu, walk);
    if ((walk.ext & EXTENDED_VALID) === 0) {
      contexts.push({ context, state: 'not set up', used: used.has(context) });
      continue;
    }
    const base = decodeRole({ lo: walk.base >>> 0, hi: 0 }, config.profile).short;
    const extended = decodeExtendedRole({ lo: walk.ext >>> 0, hi: 0 }, config.profile).short;
    const parts = [
      `role ${base}; ${extended}`,
      walk.second === null ? '' : 'addresses go through tdpWalk',
      walk.keyMask === 0 ? '' : `protection-key mask 0x${walk.keyMask.toString(16)}`,
      walk === vcpu.gvaWalk ? 'walks for whoever runs' : '',
    ];
    contexts.push({ context, state: parts.filter((part) => part !== '').join(', '), used: used.has(context) });
  }
  for (const mmu of [vcpu.rootMmu, vcpu.guestMmu]) {
    const context = nameOfMmu(vcpu, mmu);
    const role =
      mmu.rootRole === 0
        ? 'not set up'
        : `root role ${decodeRole({ lo: mmu.rootRole >>> 0, hi: 0 }, config.profile).short}`;
    const force = vcpu.mmu === mmu ? ', in force' : '';
    contexts.push({
      context,
      state: `${mmu.kind} tables, ${role}, root: ${rootText(mmu)}${force}`,
      used: used.has(context),
    });
  }
  const requests = Object.entries(Request).filter(([, bit]) => (vcpu.requests & bit) !== 0);
  const pending =
    requests.length === 0
      ? 'no request is pending'
      : `pending: ${requests.map(([name]) => `KVM_REQ_${name}`).join(', ')}`;
  contexts.push({ context: 'kvm', state: `${pending}; hardware tag ${vcpu.tag}`, used: used.has('kvm') });
  return contexts;
}

/** What the TLB holds for a linear address before the step, or undefined for nothing. */
export function tlbEntryFor(
  bare: BareMachine,
  lo: number,
  hi: number,
): Omit<ExplainedTlbEntry, 'part' | 'stale'> | undefined {
  const { tlb, contexts } = bare;
  if (!tlb.find(lo, hi, contexts.context, contexts.space)) return undefined;
  const { meta } = tlb;
  const letter = (bit: number, name: string): string => ((meta & bit) !== 0 ? name : '-');
  const second = bare.tdpWalk === null ? '' : `, second stage ${((meta >>> 4) & 0xf).toString(2).padStart(4, '0')}`;
  return {
    page: hexText(lo & ~0xfff, hi),
    to: hexText(tlb.lo, tlb.hi),
    pageShift: meta >>> TLB_PAGE_SHIFT_SHIFT,
    rights: `${letter(1, 'r')}${letter(2, 'w')}${letter(4, 'u')}${letter(8, 'x')}${(meta & TLB_DIRTY) === 0 ? ', a write walks again' : ''}${second}`,
  };
}
