/**
 * Random lives of L1's EPT and NPT: L1 and L2 write to the tables, L2 uses what they map, the host takes pages away and
 * has them logged; after every move all invariants hold, and what L1 has told of is in step.
 */

import { expect, test } from 'vitest';
import type { KvmConfig } from '../../src/formats/kvm-config.ts';
import { HostPage } from '../../src/formats/step.ts';
import { pagesOf } from '../../src/mmu/shadow-page.ts';
import { SPTE_MMU_PRESENT, SPTE_W } from '../../src/mmu/spte.ts';
import { softwareWalk } from '../../src/paging/software-walk.ts';
import { Random } from '../reference/random.ts';
import { EPT_ALL, EPT_PS, EPT_TABLE, ER, EW, EX, GuestRig, leaf } from './guest-rig.ts';
import { A, ALL, D, type Mode, P, PS, ShadowRig, TABLE, U, W } from './shadow-rig.ts';

const STEPS = 120;
/** Frames of L1's tables by level, level 1 first; the root is frame 1. */
const TABLES = [[5, 6, 7], [3, 4], [2], [1]];
const DATA = [0x100, 0x101, 0x200, 0x3ff];
const ENTRIES = [0, 1, 2, 8];
const W_CODE = 2;
const WRITABLE_LEAF = SPTE_MMU_PRESENT | SPTE_W;

interface Setup {
  readonly name: string;
  readonly stage: 'npt' | 'ept';
  readonly config?: Partial<KvmConfig>;
  readonly entry?: Parameters<GuestRig['enterL2']>[1];
  readonly mode?: Mode;
  readonly maximum?: number;
}

const SETUPS: readonly Setup[] = [
  { name: 'NPT under five levels', stage: 'npt' },
  { name: 'NPT, 7.3, without the TDP MMU', stage: 'npt', config: { profile: '7.3', tdpMmu: false } },
  { name: 'NPT with GMET, few tables', stage: 'npt', config: { profile: '7.3' }, entry: { gmet: true }, maximum: 12 },
  { name: 'EPT', stage: 'ept' },
  { name: 'EPT without A/D, few tables', stage: 'ept', entry: { ad: false }, maximum: 12 },
  { name: 'EPT under PML and NX huge pages', stage: 'ept', config: { pml: true, nxHugePages: true } },
  {
    name: 'EPT, 7.3, without A/D in KVM',
    stage: 'ept',
    config: { profile: '7.3', eptAd: false },
    entry: { ad: false },
  },
  { name: 'EPT with MBEC', stage: 'ept', config: { profile: '7.3' }, entry: { mbec: true } },
];

class Life {
  readonly rig: GuestRig;
  private readonly random: Random;
  private readonly setup: Setup;
  private inL2 = false;
  /** How moves ended, to see that there is something of everything. */
  readonly ended = new Map<string, number>();

  constructor(setup: Setup, seed: number) {
    const { stage, config = {}, maximum } = setup;
    this.setup = setup;
    this.random = new Random(seed);
    this.rig = new GuestRig({ stage, config, hostLevel: this.random.pick([1, 2]), ...(maximum ? { maximum } : {}) });
    for (let level = 4; level >= 1; level--) for (const gfn of TABLES[level - 1]!) this.fill(gfn, level);
  }

  private fill(gfn: number, level: number): void {
    for (const index of ENTRIES) this.rig.put(gfn, index, this.entry(level));
  }

  private entry(level: number): number {
    const { random } = this;
    const ept = this.setup.stage === 'ept';
    if (random.chance(0.1)) return 0;
    if (level > 1 && !(level === 2 && random.chance(0.2))) {
      const flags = ept ? EPT_TABLE | (random.chance(0.3) ? 0x400 : 0) : TABLE;
      const taken = random.chance(0.15) ? (ept ? EW | EX : W) & ~random.pick([EW, EX]) : 0;
      return ShadowRig.entry(random.pick(TABLES[level - 2]!), flags & ~taken);
    }
    const gfn = level === 2 ? random.pick([0, 0x200]) : random.pick([...DATA, 5, 6, 3, 0xe_0000]);
    return ShadowRig.entry(gfn, (ept ? this.eptFlags() : this.nptFlags()) | (level === 2 ? (ept ? EPT_PS : PS) : 0));
  }

  private eptFlags(): number {
    const { random } = this;
    const flags = random.chance(0.5) ? EPT_ALL : leaf(random.pick([ER, EX, ER | EX, ER | EW]));
    return (flags & ~(random.chance(0.2) ? 0x200 : 0)) | (random.chance(0.3) ? 0x400 : 0);
  }

  private nptFlags(): number {
    const { random } = this;
    return random.chance(0.5) ? ALL : P | A | random.pick([U, W | U, W | U | D, U | D, W | D]);
  }

  private count(what: string): void {
    this.ended.set(what, (this.ended.get(what) ?? 0) + 1);
  }

  private enter(): void {
    if (this.inL2) return;
    this.rig.enterL2(1, this.setup.entry ?? {});
    this.inL2 = true;
    // VMRUN synchronises; EPT is L1's to invalidate.
    const { root } = this.rig.mmu;
    if (this.setup.stage === 'npt') expect(root !== null && this.rig.mmu.isUnsync(root)).toBe(false);
  }

  private leave(): void {
    if (this.inL2) this.rig.exitL2();
    this.inL2 = false;
  }

  /** The frame that the tables in force let a write to an address through to, which L1's may no longer say; -1: none. */
  private writableFrame(address: number): number {
    const { pages, mmu, tdpMmu } = this.rig;
    if (mmu.root === null) return -1;
    let sptep = 0;
    if (!this.inL2 && tdpMmu !== null) {
      tdpMmu.lastSpte(mmu.root.page!, address / 4096);
      sptep = tdpMmu.sp.sptep(tdpMmu.index);
    } else {
      for (let on = mmu.shadowWalk.begin(mmu.root, address, 0); on; on = mmu.shadowWalk.next()) {
        sptep = mmu.shadowWalk.sptep;
      }
    }
    if ((pages.lo(sptep) & WRITABLE_LEAF) !== WRITABLE_LEAF) return -1;
    const sp = pages.pageOf(sptep);
    return sp.gfnAt(sptep % 512) + ((address / 4096) % pagesOf(sp.level));
  }

  /** Whoever runs writes an entry of a table, at an address that should lead there. */
  private writeThrough(address: number, gfn: number, index: number, value: number): void {
    const { rig } = this;
    for (let tries = 0; tries < 4 && this.writableFrame(address) < 0; tries++) {
      const done = rig.fault(address, W_CODE | (this.setup.stage === 'npt' ? 4 : 0) | (tries > 0 ? 1 : 0));
      this.count(`write ${done}`);
      if (done !== 'EMULATE' && done !== 'WRITE_PROTECTED') continue;
      rig.put(gfn, index, value);
      rig.emulatedWrite(gfn, index * 8, 8);
      return;
    }
    const frame = this.writableFrame(address);
    if (frame >= 0) rig.put(frame, index, value);
  }

  private l1Edits(): void {
    this.leave();
    const level = this.random.pick([1, 1, 1, 2, 2, 3, 4]);
    const gfn = this.random.pick(TABLES[level - 1]!);
    this.writeThrough(gfn * 4096, gfn, this.random.pick(ENTRIES), this.entry(level));
  }

  private l2Uses(): void {
    const { rig, random } = this;
    this.enter();
    const [i1, i2, i3] = [random.pick(ENTRIES), random.pick(ENTRIES), random.pick([0, 0, 1])];
    const address = i3! * 2 ** 30 + i2! * 2 ** 21 + i1! * 4096;
    const old = rig.config.profile === '6.1' || this.setup.stage === 'npt';
    const code = random.pick([old ? 4 : 0, W_CODE | (this.setup.stage === 'npt' ? 4 : 0), this.fetchCode()]);
    // What L1 forbids is its business, and `nested/`'s.
    const { tdpWalk } = rig.vcpu;
    if (!softwareWalk(tdpWalk, address | 0, 0, code)) {
      this.count('forbidden');
      return;
    }
    const { gfn } = tdpWalk;
    if ((code & W_CODE) !== 0 && gfn < 8) {
      const level = 1 + TABLES.findIndex((frames) => frames.includes(gfn));
      if (level > 0) this.writeThrough(address, gfn, random.pick(ENTRIES), this.entry(level));
      return;
    }
    this.count(rig.fault(address, code));
  }

  private fetchCode(): number {
    return this.setup.stage === 'npt' ? 0x14 : 0x10;
  }

  private hostMoves(): void {
    const { rig, random } = this;
    const gfn = random.pick([...DATA, 5, 3]);
    switch (random.below(5)) {
      case 0:
        rig.vm.unmap(0, gfn, gfn + 1);
        rig.host.hostPages(gfn, 0, 1, HostPage.WRITABLE, 1);
        break;
      case 1:
        rig.pages.unprotect(random.pick([2, 3, 5]));
        break;
      case 2:
        rig.vm.zapAllFast();
        break;
      case 3:
        this.enter();
        // INVEPT by L1, in effect.
        rig.mmu.free();
        rig.vcpu.serveRequests();
        expect(rig.mmu.root !== null && rig.mmu.isUnsync(rig.mmu.root)).toBe(false);
        break;
      default:
        rig.slot({ what: 'flags', dirtyLog: random.chance(0.5) });
    }
  }

  step(): void {
    const { random } = this;
    random.weighted([
      [6, (): void => this.l2Uses()],
      [3, (): void => this.l1Edits()],
      [1, (): void => this.hostMoves()],
    ])();
    this.rig.log.count = 0;
  }
}

test.each(SETUPS)('$name', (setup) => {
  const ended = new Map<string, number>();
  for (let seed = 1; seed <= 6; seed++) {
    const life = new Life(setup, seed);
    for (let step = 0; step < STEPS; step++) {
      life.step();
      const broken = life.rig.broken();
      if (broken.length > 0) throw new Error(`seed ${seed}, step ${step}: ${broken[0]}`);
    }
    for (const [what, count] of life.ended) ended.set(what, (ended.get(what) ?? 0) + count);
  }
  // Something of everything.
  for (const what of ['FIXED', 'forbidden', 'write FIXED']) expect(ended.get(what) ?? 0).toBeGreaterThan(10);
  const emulated = setup.config?.profile === '7.3' ? 'write WRITE_PROTECTED' : 'write EMULATE';
  expect((ended.get(emulated) ?? 0) + (ended.get('write EMULATE') ?? 0)).toBeGreaterThan(10);
});
