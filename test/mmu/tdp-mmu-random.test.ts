/** Random operations on the TDP MMU: whatever happens, its tables are trees, none is lost, and events tell all changes. */

import { expect, test } from 'vitest';
import type { KvmConfig } from '../../src/formats/kvm-config.ts';
import { ENTRIES, indexOf, pagesOf, type ShadowPage } from '../../src/mmu/shadow-page.ts';
import { frameOf, SPTE_W } from '../../src/mmu/spte.ts';
import { isInvalid, roleLevel } from '../../src/paging/kvm-roles.ts';
import { Random } from '../reference/random.ts';
import { plainSlot, SMM_CPU_ROLE, TdpRig } from './tdp-rig.ts';

const STEPS = 250;
const SLOT = plainSlot(0, 0x4000, 0x800);

const configurations: [string, Partial<KvmConfig>][] = [
  ['6.1 NPT, five levels', { tdpLevel: 5 }],
  ['6.1 EPT without A/D bits', { vendor: 'intel', eptAd: false }],
  ['6.1 EPT with PML and NX huge pages', { vendor: 'intel', pml: true, nxHugePages: true }],
  ['7.3 NPT', { profile: '7.3' }],
  ['7.3 EPT, NX huge pages', { profile: '7.3', vendor: 'intel', nxHugePages: true }],
];

/** Frames with a page of every size around them, and one outside all slots. */
const FRAMES = [0, 7, 0x1ff, 0x200, 0x4000, 0x4001, 0x403f, 0x41ff, 0x4200, 0x47ff, 0x4_0000, 0x4_0201, 0xe_0000];

/** `expect`, for what is asked a million times. */
function demand(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}

class World {
  readonly rig: TdpRig;
  readonly random: Random;
  readonly held: ShadowPage[] = [];

  constructor(seed: number, change: Partial<KvmConfig>) {
    this.random = new Random(seed);
    this.rig = new TdpRig(change);
    this.rig.host.slotList = [plainSlot(0, 0, 0x8_0000), plainSlot(1, 0, 0x8_0000)];
    this.load();
  }

  /** What a vCPU does that has lost its roots: gives them back, gets valid ones. */
  load(): void {
    const { rig } = this;
    for (const root of this.held.splice(0)) rig.tdp.putRoot(root);
    for (const cpuBase of [0, SMM_CPU_ROLE, 1 << 17]) this.held.push(rig.root(cpuBase));
  }

  step(): void {
    const { rig, random } = this;
    const { tdp } = rig;
    const gfn = random.pick(FRAMES);
    const space = random.below(4) === 0 ? 1 : 0;
    const end = gfn + random.pick([1, 2, 0x40, 0x200, 0x1000]);
    rig.host.level = random.weighted([
      [5, 1],
      [3, 2],
      [1, 3],
    ]);
    rig.host.writable = random.chance(0.8);
    switch (random.below(18)) {
      case 0: {
        tdp.unmapRange(space, gfn, end);
        for (const root of this.held.filter((sp) => sp.role >>> 24 === space)) this.expectEmpty(root, gfn, end);
        break;
      }
      case 1:
        tdp.ageRange(space, gfn, end);
        expect(tdp.testAge(space, gfn, end)).toBe(false);
        break;
      case 2:
        tdp.writeProtectGfn(gfn, space, random.pick([1, 1, 1, 2]));
        expect(tdp.writeProtectGfn(gfn, space, 1) && tdp.writeProtectGfn(gfn, space, 1)).toBe(false);
        break;
      case 3:
        tdp.writeProtectSlot(SLOT, random.pick([1, 2]));
        break;
      case 4:
        tdp.clearDirtySlot(SLOT);
        expect(tdp.clearDirtySlot(SLOT)).toBe(false);
        break;
      case 5:
        tdp.clearDirtyMasked(SLOT, random.pick([0, 0x1c0, 0x200]), random.uint32(), 1, random.chance(0.5));
        break;
      case 6:
        tdp.splitHugePages(SLOT, SLOT.baseGfn, SLOT.baseGfn + SLOT.pages, random.pick([1, 1, 2]));
        break;
      case 7:
        tdp.zapCollapsible(SLOT);
        break;
      case 8:
        tdp.invalidateAllRoots();
        tdp.zapInvalidatedRoots();
        this.load();
        break;
      default:
        rig.fault(this.held[space === 1 ? 1 : random.pick([0, 2])]!, gfn, random.pick(['r', 'w', 'x']));
    }
  }

  expectEmpty(root: ShadowPage, start: number, end: number): void {
    const { rig } = this;
    for (let gfn = start; gfn < end; gfn++) {
      rig.tdp.lastSpte(root, gfn);
      const { sp, index } = rig.tdp;
      demand(!rig.pages.format.isPresent(rig.pages.lo(sp.sptep(index))), 'something is left in the range');
    }
  }

  /** Checks the tree below a table; returns its tables. */
  tables(sp: ShadowPage): ShadowPage[] {
    const { pages } = this.rig;
    const { format } = pages;
    const found = [sp];
    for (let index = 0; index < ENTRIES; index++) {
      const sptep = sp.sptep(index);
      const lo = pages.lo(sptep);
      const hi = pages.hi(sptep);
      demand(!format.isFrozen(lo, hi), 'a frozen entry stays');
      if (!format.isPresent(lo)) continue;
      if (format.isLeaf(lo, sp.level)) {
        // Writable implies MMU-writable implies host-writable; a large page is aligned.
        demand((lo & SPTE_W) === 0 || format.isMmuWritable(lo, hi), 'W without MMU-writable');
        demand(!format.isMmuWritable(lo, hi) || format.isHostWritable(lo, hi), 'MMU-writable without host-writable');
        demand(frameOf(lo, hi) === sp.gfnAt(index) + this.rig.host.offset, 'another frame');
        demand(frameOf(lo, hi) % pagesOf(sp.level) === 0, 'a large page is not aligned');
        continue;
      }
      const child = pages.childOf(lo, hi);
      demand(child.level === sp.level - 1 && roleLevel(child.role) === child.level, 'a level is skipped');
      demand(child.gfn === sp.gfnAt(index) && indexOf(child.gfn, sp.level) === index, 'the child is for another frame');
      demand((child.role & ~0xf) === (sp.role & ~0xf), 'the child has another role');
      demand(child.parents.length === 1 && child.parents[0] === sptep, 'the child does not know its parent');
      found.push(...this.tables(child));
    }
    return found;
  }

  check(): void {
    const { rig } = this;
    const { profile } = rig.config;
    const reachable = this.held.flatMap((root) => {
      if (!isInvalid(root.role, profile)) return this.tables(root);
      throw new Error('an invalid root is held');
    });
    expect(new Set(rig.pages.all())).toEqual(new Set(reachable));
  }
}

/** Plays the events: get and zap make tables come and go, chg must start from the value that the last one left. */
class Follower {
  private readonly values = new Map<string, string>();
  tables = 0;

  private readonly empty: string;

  constructor(empty: string) {
    this.empty = empty;
  }

  follow(events: readonly string[]): void {
    for (const event of events) {
      const [what, , gfn] = event.split(' ');
      if (what === 'get') this.tables++;
      if (what === 'zap') this.tables--;
      if (what !== 'chg') continue;
      const [, level, , from, to] = event.split(' ');
      if (from === to) throw new Error(`no change: ${event}`);
      const key = `${level} ${gfn}`;
      const was = this.values.get(key) ?? this.empty;
      if (was !== from) throw new Error(`${event}, but it was ${was}`);
      // Frozen: the table is gone, or the entry is emptied without an event.
      this.values.set(key, to!.endsWith('5a0') || to!.endsWith('1a0') ? this.empty : to!);
    }
  }
}

test.each(configurations)('%s', (_, change) => {
  for (let seed = 1; seed <= 4; seed++) {
    const world = new World(seed, change);
    for (let step = 0; step < STEPS; step++) {
      world.step();
      world.rig.log.count = 0;
      if (step % 10 === 0) world.check();
    }
    world.rig.tdp.zapAll();
    world.check();
    expect(world.rig.pages.all().length).toBe(world.held.length);
  }
});

test('events are a complete account of one root of 4 KiB pages', () => {
  for (const change of [{}, { profile: '7.3' }, { vendor: 'intel', eptAd: false }] as const) {
    const rig = new TdpRig(change);
    const random = new Random(99);
    const empty = rig.config.profile === '7.3' ? '8000000000000000' : '0';
    let follower = new Follower(empty);
    let root = rig.root();
    for (let step = 0; step < 300; step++) {
      const gfn = random.pick(FRAMES);
      const operation = random.below(12);
      if (operation === 0) rig.tdp.unmapRange(0, gfn, gfn + 0x40);
      else if (operation === 1) rig.tdp.ageRange(0, gfn, gfn + 0x40);
      else if (operation === 2) rig.tdp.writeProtectGfn(gfn, 0, 1);
      else if (operation === 3) rig.tdp.writeProtectSlot(SLOT, 1);
      else rig.fault(root, gfn, random.pick(['r', 'w']));
      if (step % 100 === 99) {
        rig.tdp.invalidateAllRoots();
        rig.tdp.zapInvalidatedRoots();
        rig.tdp.putRoot(root);
        follower.follow(rig.take());
        // The root itself is not reported.
        expect(follower.tables).toBe(1);
        follower = new Follower(empty);
        root = rig.root();
      }
      follower.follow(rig.take());
      expect(follower.tables).toBe(rig.pages.all().length);
    }
  }
});
