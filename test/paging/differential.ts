/**
 * The differential test: the machine's fast walker against the plain one on random worlds.
 *
 * An *epoch* is a processor with WORLDS worlds, a *case* one access to one of them: (seed, epoch, world, access) says
 * all there is to say about a case. Compared are all rows in order, the outcome, and memory. Between accesses an entry
 * that the last walk has read is changed, mostly in one bit, and mostly put back afterwards.
 *
 * With `tlb` the machine may serve accesses from its TLB, tables stay as they are, and what is compared is that nobody
 * can tell: a TLB without anything stale must not change an outcome.
 */

import { toBigInt } from '../../src/bits/word64.ts';
import { OBS_PAGE_SHIFT_MASK, OBS_PAGE_SHIFT_SHIFT } from '../../src/formats/observation.ts';
import {
  GuestMode,
  NESTED_GMET,
  NESTED_NP_ENABLE,
  REGISTER_NAMES,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
} from '../../src/formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_SHIFT,
  ACCESS_SHADOW_STACK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  StepKind,
} from '../../src/formats/step.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import { ROW, type RowLog } from '../../src/paging/row-log.ts';
import { logRows } from '../../src/replay/align.ts';
import { rowText } from '../../src/report/rows.ts';
import { FORMAT_VERSION, type TraceHeader } from '../../src/trace/header.ts';
import { WordMap } from '../reference/plain-memory.ts';
import { type PlainMachine, type PlainWalk, plainWalk } from '../reference/plain-walker.ts';
import { Random } from '../reference/random.ts';
import { mutated, type ReadEntry, randomAccess, randomAddress } from './accesses.ts';
import { expectedRows, TYPE_OF } from './expected-rows.ts';
import type { Processor } from './layout.ts';
import { type Access, randomProcessor, type World, WorldBuilder } from './world.ts';

const WORLDS = 40;
const ACCESSES = 24;
/** Differences kept in full. */
const KEPT = 40;

export interface Difference {
  /** What differs, without addresses: equal for differences of the same shape. */
  readonly shape: string;
  /** How to see it again, the case in full, and both walks. */
  readonly report: string;
}

export function headerOf(processor: Processor): TraceHeader {
  const cap =
    (processor.executeOnly ? 1 : 0) |
    (processor.ept2m ? 1 << 16 : 0) |
    (processor.ept1g ? 1 << 17 : 0) |
    (processor.advancedInfo ? 1 << 22 : 0);
  const features = [...(processor.pse36 ? ['pse36'] : []), ...(processor.page1g ? ['pdpe1gb'] : [])];
  return {
    formatVersion: FORMAT_VERSION,
    featureFlags: 0,
    recorder: '',
    writer: '',
    title: '',
    processor: {
      vendor: processor.vendor,
      model: '',
      maxphyaddr: processor.maxphyaddr,
      features,
      eptVpidCap: { lo: cap, hi: 0 },
      secondaryControlsAllowed: 0,
    },
    adPolicy: processor.afterTranslation ? 'after-translation' : 'after-permissions',
    observable: 0xffff,
    independent: true,
    sources: [],
    knownFaults: [],
    hypervisor: undefined,
    omissions: [],
  };
}

export function accessOp(access: Access, walked: boolean): number {
  let op = StepKind.ACCESS | (TYPE_OF[access.kind] << ACCESS_TYPE_SHIFT);
  if (access.user) op |= ACCESS_USER;
  // CPL 3 without a user-mode access is what makes it implicit.
  if (access.user || access.implicit) op |= 3 << ACCESS_CPL_SHIFT;
  if (access.shadowStack) op |= ACCESS_SHADOW_STACK;
  if (access.ac) op |= ACCESS_AC;
  if (walked) op |= ACCESS_WALKED;
  return op;
}

/** The machine's registers for a state that the plain walker is given. */
export function registersOf(plain: PlainMachine): [register: number, value: bigint][] {
  const { secondStage } = plain;
  const registers: [number, bigint][] = [
    [Reg.CR0, plain.cr0],
    [Reg.CR3, plain.cr3],
    [Reg.CR4, plain.cr4],
    [Reg.EFER, plain.efer],
    [Reg.PKRU, plain.pkru],
    [Reg.PKRS, plain.pkrs],
    ...plain.pdptes.map((value, i): [number, bigint] => [Reg.PDPTE0 + i, value]),
    [Reg.GUEST_MODE, BigInt(GuestMode.NONE)],
  ];
  if (secondStage?.kind === 'ept') {
    registers.push([Reg.GUEST_MODE, BigInt(GuestMode.VMX)], [Reg.EPTP, secondStage.eptp]);
    registers.push([Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | (secondStage.mbec ? SECONDARY_MBEC : 0))]);
  } else if (secondStage?.kind === 'npt') {
    registers.push([Reg.GUEST_MODE, BigInt(GuestMode.SVM)], [Reg.NCR3, secondStage.ncr3]);
    registers.push([Reg.NESTED_CONTROL, BigInt(NESTED_NP_ENABLE | (secondStage.gmet ? NESTED_GMET : 0))]);
    registers.push([Reg.HOST_CR0, 0x8001_0011n], [Reg.HOST_CR4, secondStage.hostCr4]);
    registers.push([Reg.HOST_EFER, secondStage.hostEfer]);
  }
  return registers;
}

function low(value: bigint): number {
  return Number(value & 0xffff_ffffn);
}

function high(value: bigint): number {
  return Number((value >> 32n) & 0xffff_ffffn);
}

export class Differential {
  private readonly seed: number;
  private readonly tlb: boolean;
  /** Cases run. */
  cases = 0;
  /** Accesses that the machine's TLB served. */
  hits = 0;
  /** How walks ended, with counts. */
  readonly outcomes = new Map<string, number>();
  /** Differences by shape, with counts. */
  readonly shapes = new Map<string, number>();
  readonly differences: Difference[] = [];

  // The case being run.
  private place = '';
  private world!: World;
  private machine!: BareMachine;
  private memory = new WordMap();
  private readonly pages = new Set<number>();
  private lastChange = '';
  /** With `tlb`: what each word of the tables was read as, dimension and level. */
  private readonly roles = new Map<bigint, string>();

  constructor(seed: number, options: { readonly tlb?: boolean } = {}) {
    this.seed = seed;
    this.tlb = options.tlb ?? false;
  }

  /** Runs all worlds of an epoch, or one. */
  runEpoch(epoch: number, only?: number): void {
    const processor = randomProcessor(new Random(this.seed, epoch));
    this.machine = new BareMachine(headerOf(processor));
    for (let world = 0; world < WORLDS; world++) {
      if (only === undefined || only === world) this.runWorld(processor, epoch, world);
    }
  }

  private readonly store = (address: number, value: bigint, size: 4 | 8): void => {
    const { machine, memory } = this;
    this.pages.add(Math.floor(address / 0x1000));
    machine.memory.store(address | 0, Math.floor(address / 0x1_0000_0000), low(value) | 0, high(value) | 0, size);
    if (size === 4) memory.write32(BigInt(address), value);
    else memory.write64(BigInt(address), value);
  };

  private runWorld(processor: Processor, epoch: number, number: number): void {
    const { machine, pages } = this;
    for (const page of pages) {
      machine.memory.setPage((page * 0x1000) | 0, Math.floor(page / 0x10_0000), null);
    }
    pages.clear();
    this.memory = new WordMap();
    const random = new Random(this.seed, epoch, number + 1);
    const world = new WorldBuilder(random, processor, this.store, this.tlb).build();
    this.world = world;
    for (const [register, value] of registersOf(world.machine)) {
      machine.setRegister(register, low(value), high(value));
    }
    const flush = StepKind.INVALIDATE | (Invalidation.INVPCID << INVALIDATION_SHIFT) | (2 << INVALIDATION_TYPE_SHIFT);
    machine.apply(0, flush, 0, 0, 0, 0, []);

    this.roles.clear();
    const addresses = Array.from({ length: 4 }, () => randomAddress(random, world));
    let address = addresses[0]!;
    let restore: ReadEntry | undefined;
    let lastReads: ReadEntry[] = [];
    for (let i = 0; i < ACCESSES; i++) {
      this.place = `seed ${this.seed}, epoch ${epoch}, world ${number}, access ${i}`;
      this.lastChange = '';
      if (this.tlb) {
        address = random.pick(addresses) ^ BigInt(random.below(0x1000));
      } else if (lastReads.length > 0 && random.chance(0.55)) {
        // Rather late in the walk than early: in two stages it reads the roots again and again.
        const entry = lastReads[Math.max(random.below(lastReads.length), random.below(lastReads.length))]!;
        const value = mutated(random, world, entry);
        this.store(Number(entry.address), value, entry.bytes);
        this.lastChange = `entry at 0x${entry.address.toString(16)} set to 0x${value.toString(16)}`;
        if (random.chance(0.97)) restore = entry;
      } else if (random.chance(0.5)) {
        address = random.chance(0.3) ? random.pick(addresses) : randomAddress(random, world);
      }
      const walk = this.runCase(randomAccess(random, world, address));
      if (walk === undefined) return;
      lastReads = walk.events.filter((event) => event.type === 'element');
      if (restore !== undefined) this.store(Number(restore.address), restore.value, restore.bytes);
      restore = undefined;
    }
    this.compareMemory();
  }

  /** Undefined: the world is of no use to this test. */
  private runCase(access: Access): PlainWalk | undefined {
    const { machine, world } = this;
    world.machine.ac = access.ac;
    const walk = plainWalk(world.machine, this.memory, access);
    machine.apply(1, accessOp(access, !this.tlb), low(access.address) | 0, high(access.address) | 0, 0, 0, []);
    // One walk's accessed bit can then be another's reserved one: what the TLB holds would lawfully be out of date.
    if (this.tlb && this.isAliased(walk)) return undefined;
    this.cases++;
    this.countOutcome(walk);
    const expected = expectedRows(walk);
    if (sameRows(machine.log, expected)) return walk;
    const served = this.tlb && machine.log.count === 1 && expected.count > 1;
    if (served) {
      this.hits++;
      if (this.agreesWithHit(walk)) return walk;
    }
    this.note(access, walk, served ? 'served by the TLB: ' : '');
    return walk;
  }

  /** A word was read as entries of different kinds, in this walk or earlier ones. */
  private isAliased(walk: PlainWalk): boolean {
    let aliased = false;
    for (const event of walk.events) {
      if (event.type !== 'element') continue;
      const role = `${event.dimension} ${event.level}`;
      const word = event.address >> 3n;
      aliased ||= (this.roles.get(word) ?? role) !== role;
      this.roles.set(word, role);
    }
    return aliased;
  }

  /** The machine's only row is how the plain walk ended, and that walk wrote nothing. */
  private agreesWithHit(walk: PlainWalk): boolean {
    if (walk.events.some((event) => event.type === 'entry-write')) return false;
    const { log } = this.machine;
    const expected = expectedRows(walk, false);
    // A TLB entry may hold a part of a page, where the second stage's is smaller (SDM vol. 3A 4.10.2.3): mask the size.
    if (this.world.machine.secondStage !== undefined && walk.outcome.kind === 'translated') {
      const mask = ~(OBS_PAGE_SHIFT_MASK << OBS_PAGE_SHIFT_SHIFT);
      return sameRows(log, expected, mask);
    }
    return sameRows(log, expected);
  }

  private countOutcome(walk: PlainWalk): void {
    const { outcome } = walk;
    const key =
      outcome.kind === 'exception' ? `exception ${outcome.vector} 0x${outcome.errorCode.toString(16)}` : outcome.kind;
    this.outcomes.set(key, (this.outcomes.get(key) ?? 0) + 1);
  }

  private note(access: Access, walk: PlainWalk, prefix: string): void {
    const seen = logRows(this.machine.log);
    const wanted = logRows(expectedRows(walk));
    const at = wanted.findIndex((row, i) => JSON.stringify(row) !== JSON.stringify(seen[i]));
    const { processor, paging, machine } = this.world;
    const name = (rows: ReturnType<typeof logRows>, i: number): string =>
      rows[i] === undefined
        ? 'nothing'
        : textOf(rows[i]!)
            .replace(/0x[0-9a-f]+/g, '#')
            .slice(0, 60);
    const stage = machine.secondStage?.kind ?? 'one stage';
    const shape = `${prefix}${stage}, ${paging}, ${access.shadowStack ? 'shadow-stack ' : ''}${access.kind}: ${name(wanted, at)} / ${name(seen, at)}`;
    this.shapes.set(shape, (this.shapes.get(shape) ?? 0) + 1);
    if (this.differences.length >= KEPT || this.shapes.get(shape)! > 1) return;
    const json = (value: unknown): string =>
      JSON.stringify(value, (_, each) => (typeof each === 'bigint' ? `0x${each.toString(16)}` : each));
    const registers = registersOf(machine).map(([r, value]) => `${REGISTER_NAMES[r]} 0x${value.toString(16)}`);
    const lines = (rows: ReturnType<typeof logRows>): string[] =>
      rows.map((row, i) => `  ${i === at ? '>' : ' '} ${textOf(row)}`);
    const report = [
      `${prefix}${this.place}${this.tlb ? ' (tlb)' : ''}; first difference in row ${at}`,
      `processor ${json(processor)}`,
      registers.join(', '),
      `access ${json(access)}; ${this.lastChange}`,
      'plain walker:',
      ...lines(wanted),
      'machine:',
      ...lines(seen),
    ].join('\n');
    this.differences.push({ shape, report });
  }

  /** All words of the world, after all its accesses. */
  private compareMemory(): void {
    const { machine, memory } = this;
    for (const [word, value] of memory.words) {
      const address = word * 8;
      const [lo, hi] = machine.readEntry(0, address | 0, Math.floor(address / 0x1_0000_0000));
      if (toBigInt(lo, hi) === value) continue;
      const shape = 'memory afterwards';
      this.shapes.set(shape, (this.shapes.get(shape) ?? 0) + 1);
      if (this.differences.length >= KEPT || this.shapes.get(shape)! > 1) return;
      const report = `${this.place}: memory at 0x${address.toString(16)} is 0x${toBigInt(lo, hi).toString(16)}, should be 0x${value.toString(16)}`;
      this.differences.push({ shape, report });
      return;
    }
  }

  /** Counts of outcomes and of differences by shape, for people. */
  summary(): string {
    const table = (counts: ReadonlyMap<string, number>): string[] =>
      [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => `  ${String(count).padStart(10)}  ${name}`);
    return [
      `${this.cases} cases${this.tlb ? `, ${this.hits} served by the TLB` : ''}`,
      ...table(this.outcomes),
      `${[...this.shapes.values()].reduce((sum, count) => sum + count, 0)} differences`,
      ...table(this.shapes),
      ...this.differences.map(({ report }) => `\n${report}`),
    ].join('\n');
  }
}

function textOf(row: ReturnType<typeof logRows>[number]): string {
  return rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi);
}

/** Whether both logs hold the same rows. `first`: the bits of the first row's word that count. */
function sameRows(a: RowLog, b: RowLog, first = -1): boolean {
  if (a.count !== b.count) return false;
  if (((a.rows[0]! ^ b.rows[0]!) & first) !== 0) return false;
  const end = a.count * ROW;
  for (let i = 1; i < end; i++) if (a.rows[i] !== b.rows[i]) return false;
  return true;
}
