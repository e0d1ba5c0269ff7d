/** The processor above an emulated KVM: what forms its exits take, what it caches, and how KVM sets it up. */

import { describe, expect, test } from 'vitest';
import { defaultKvmConfig, type KvmConfig } from '../../../src/formats/kvm-config.ts';
import { NotModelled } from '../../../src/formats/observation.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_LASS,
  CR4_PAE,
  CR4_PKE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
} from '../../../src/formats/registers.ts';
import {
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  INVALIDATION_SHIFT,
  Invalidation,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../../../src/formats/step.ts';
import { HostMemory } from '../../../src/machine/kvm/host-memory.ts';
import { Outcome, Processor } from '../../../src/machine/kvm/processor.ts';
import { HEADER } from '../rig.ts';
import { HandTables, type Rights } from './hand-tables.ts';

const READ = StepKind.ACCESS | (AccessType.READ << ACCESS_TYPE_SHIFT);
const WRITE = StepKind.ACCESS | (AccessType.WRITE << ACCESS_TYPE_SHIFT);
const FETCH = StepKind.ACCESS | (AccessType.FETCH << ACCESS_TYPE_SHIFT);
const ALL: Rights = { write: true, execute: true, user: true };
const { OK, GUEST_FAULT, EXIT, NOT_MODELLED } = Outcome;

/** A guest with 4-level tables: linear page i of the first 2 MiB is guest frame 0x100 + i; tables in frames 1 to 4. */
class Bench {
  readonly host: HostMemory;
  readonly processor: Processor;
  readonly tables: HandTables;

  constructor(change: Partial<KvmConfig>, level: 3 | 4 | 5 = 4) {
    const config = defaultKvmConfig({ hostMaxphyaddr: 46, ...change });
    this.host = new HostMemory({ mode: 'free', profile: '6.1', hostMaxphyaddr: 46 });
    this.processor = new Processor(HEADER, config, this.host);
    for (let table = 1; table < 4; table++) this.host.store(table << 12, 0, ((table + 1) << 12) | 0x67, 0, 8);
    for (let i = 0; i < 512; i++) this.host.store(0x4000 + 8 * i, 0, ((0x100 + i) << 12) | 0x67, 0, 8);
    this.set(Reg.CR0, CR0_PG | CR0_WP | 1);
    this.set(Reg.CR3, 0x1000);
    this.set(Reg.CR4, CR4_PAE);
    this.set(Reg.EFER, EFER_LME | EFER_LMA | EFER_NXE);
    const ept = config.eptAd ? 'ept-ad' : 'ept';
    this.tables = new HandTables(this.host.memory, level, config.vendor === 'intel' && config.tdp ? ept : 'x86');
    this.processor.setRoot(this.tables.root);
  }

  set(register: number, lo: number): void {
    this.processor.setRegister(register, lo, 0);
  }

  /** TDP: maps a guest frame; shadow: a linear page to guest frame `gfn`. */
  map(page: number, rights: Rights = ALL, gfn = page): void {
    this.tables.map(page, this.host.frameOf(gfn, 0), 1, rights);
  }

  mapTables(): void {
    for (let gfn = 1; gfn <= 4; gfn++) this.map(gfn);
  }

  exit(): readonly [faultLo: number, exitLo: number, exitHi: number, misconfig: boolean] {
    const { faultLo, exitLo, exitHi, misconfig } = this.processor;
    return [faultLo, exitLo, exitHi, misconfig];
  }
}

describe('nested paging', () => {
  const npt = (): Bench => new Bench({ vendor: 'amd' });

  test('exits with EXITINFO1: table and page, present and not', () => {
    const bench = npt();
    const { processor } = bench;
    expect(processor.translate(READ, 0x5678, 0)).toBe(EXIT);
    // A guest page table: bit 33, read as a write by a user.
    expect(bench.exit()).toEqual([0x1000, 6, 2, false]);
    bench.mapTables();
    expect(processor.translate(READ, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x10_5678, 4, 1, false]);
    bench.map(0x105, { ...ALL, write: false, execute: false });
    expect(processor.translate(READ, 0x5678, 0)).toBe(OK);
    expect(processor.translate(WRITE, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x10_5678, 7, 1, false]);
    expect(processor.translate(FETCH, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x10_5678, 0x15, 1, false]);
  });

  test('exits with a reserved bit for an entry that stands for memory-mapped I/O', () => {
    const bench = npt();
    bench.mapTables();
    bench.map(0x105);
    const { memory } = bench.host;
    const at = memory.words.lastIndexOf((bench.host.frameOf(0x105, 0) << 12) | 7);
    memory.words[at + 1] = 1 << 19;
    expect(bench.processor.translate(READ, 0x5000, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x10_5000, 0xd, 1, false]);
  });

  test('tells what was reached: host-physical and guest-physical address, size of the guest page', () => {
    const bench = npt();
    bench.mapTables();
    bench.map(0x105);
    const { processor, host } = bench;
    expect(processor.translate(READ, 0x5678, 0)).toBe(OK);
    expect(processor.hpaLo >>> 12).toBe(host.frameOf(0x105, 0));
    expect([processor.gpaLo, processor.gpaHi, processor.gfn, processor.pageShift]).toEqual([0x10_5678, 0, 0x105, 12]);
  });

  test('shows a wrong mapping as what it leads to, and one that leads nowhere as no guest memory', () => {
    const bench = npt();
    bench.mapTables();
    bench.map(0x105, ALL, 0x177);
    expect(bench.processor.translate(READ, 0x5678, 0)).toBe(OK);
    expect(bench.processor.gfn).toBe(0x177);
    bench.tables.map(0x106, bench.tables.root.frame, 1, ALL);
    expect(bench.processor.translate(READ, 0x6000, 0)).toBe(OK);
    expect([bench.processor.gfn, bench.processor.gpaLo]).toEqual([-1, -1]);
  });

  test('leaves page faults and general protection to the guest', () => {
    const bench = npt();
    const { processor } = bench;
    bench.mapTables();
    expect(processor.translate(WRITE | ACCESS_USER, 0x20_0000, 0)).toBe(GUEST_FAULT);
    expect([processor.vector, processor.errorCode]).toEqual([14, 6]);
    expect(processor.translate(READ, 0, 0x8000)).toBe(GUEST_FAULT);
    expect([processor.vector, processor.errorCode]).toEqual([13, 0]);
  });

  test('sets accessed and dirty bits in the tables of both', () => {
    const bench = npt();
    bench.mapTables();
    bench.map(0x105);
    const { host, processor } = bench;
    host.store(0x4028, 0, 0x10_5007, 0, 8);
    processor.translate(WRITE, 0x5000, 0);
    expect(host.memory.words[host.pageIndexOf(4, 0) + 10]).toBe(0x10_5067);
    expect(host.memory.words.includes((host.frameOf(0x105, 0) << 12) | 0x67)).toBe(true);
  });
});

describe('EPT', () => {
  test('exits with a qualification, or for a misconfiguration without one', () => {
    const bench = new Bench({ vendor: 'intel' });
    const { processor } = bench;
    expect(processor.translate(READ, 0x5678, 0)).toBe(EXIT);
    // Linear address valid, not its translation; with A/D bits tables are read and written.
    expect(bench.exit()).toEqual([0x1000, 0x83, 0, false]);
    bench.mapTables();
    bench.map(0x105, { ...ALL, write: false });
    expect(processor.translate(WRITE, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x10_5678, 0x7aa, 0, false]);
    bench.tables.unmap(0x105);
    const { words } = bench.host.memory;
    bench.map(0x105);
    const at = words.lastIndexOf((bench.host.frameOf(0x105, 0) << 12) | 0x77);
    words[at] = 6;
    expect(processor.translate(READ, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x10_5678, 0, 0, true]);
  });

  test('without accessed and dirty bits reads tables for reading', () => {
    const bench = new Bench({ vendor: 'intel', eptAd: false });
    bench.processor.translate(READ, 0x5678, 0);
    expect(bench.exit()).toEqual([0x1000, 0x81, 0, false]);
  });
});

describe('shadow paging', () => {
  const shadow = (change: Partial<KvmConfig> = {}, level: 3 | 4 | 5 = 4): Bench =>
    new Bench({ tdp: false, ...change }, level);

  test('exits with CR2 and the error code of its own tables; the fetch bit is there whatever the guest has', () => {
    const bench = shadow();
    const { processor } = bench;
    bench.set(Reg.EFER, EFER_LME | EFER_LMA);
    expect(processor.translate(FETCH | ACCESS_USER, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x5678, 0x14, 0, false]);
    bench.map(5, { ...ALL, write: false }, 0x105);
    expect(processor.translate(WRITE, 0x5678, 0)).toBe(EXIT);
    expect(bench.exit()).toEqual([0x5678, 3, 0, false]);
    expect(processor.translate(READ, 0x5678, 0)).toBe(OK);
    expect([processor.gpaLo, processor.gfn]).toEqual([0x10_5678, 0x105]);
  });

  test('has write protection on, whatever the guest has', () => {
    const bench = shadow();
    bench.set(Reg.CR0, CR0_PG | 1);
    bench.map(5, { ...ALL, write: false }, 0x105);
    expect(bench.processor.translate(WRITE, 0x5000, 0)).toBe(EXIT);
  });

  test.each([
    [CR4_SMAP, READ],
    [CR4_SMEP, FETCH],
  ])('has CR4 bit %i off for a guest that does not page, and on for one that does', (bit, op) => {
    const pae = shadow({}, 3);
    pae.set(Reg.CR0, 1);
    pae.set(Reg.EFER, 0);
    pae.set(Reg.CR4, bit);
    pae.map(5);
    expect(pae.processor.translate(op, 0x5000, 0)).toBe(OK);
    expect(pae.processor.gfn).toBe(5);
    pae.set(Reg.CR0, CR0_PG | 1);
    pae.processor.flushAll();
    expect(pae.processor.translate(op, 0x5000, 0)).toBe(EXIT);
  });

  test('hides protection keys', () => {
    const bench = shadow();
    bench.set(Reg.CR4, CR4_PAE | CR4_PKE);
    bench.set(Reg.PKRU, 0xffff_ffff);
    bench.map(5, ALL, 0x105);
    expect(bench.processor.translate(READ | ACCESS_USER, 0x5000, 0)).toBe(OK);
  });

  test('takes the entries of a PAE root as they are when it is loaded', () => {
    const bench = shadow({}, 3);
    bench.set(Reg.CR0, 1);
    bench.set(Reg.EFER, 0);
    bench.map(0x40000);
    const { processor, tables } = bench;
    expect(processor.translate(READ, 0x4000_0000, 0)).toBe(OK);
    tables.root.pdptes[2] = 0;
    processor.flushAll();
    expect(processor.translate(READ, 0x4000_0000, 0)).toBe(OK);
    processor.setRoot(tables.root);
    processor.flushAll();
    expect(processor.translate(READ, 0x4000_0000, 0)).toBe(EXIT);
  });

  test('does not make up what the guest’s own paging would have to do', () => {
    const bench = shadow();
    bench.set(Reg.CR4, CR4_PAE | CR4_LASS);
    bench.map(5, ALL, 0x105);
    expect(bench.processor.translate(READ, 0x5000, 0)).toBe(NOT_MODELLED);
    expect(bench.processor.unmodelled).toBe(NotModelled.LASS);
  });
});

describe('cached translations', () => {
  const warm = (change: Partial<KvmConfig> = {}): Bench => {
    const bench = new Bench({ vendor: 'amd', ...change });
    bench.mapTables();
    bench.map(0x105);
    bench.map(0x106);
    for (const lo of [0x5000, 0x6000]) expect(bench.processor.translate(READ, lo, 0)).toBe(OK);
    bench.tables.unmap(0x105);
    bench.tables.unmap(0x106);
    return bench;
  };
  const cached = ({ processor }: Bench, lo: number): boolean => processor.translate(READ, lo, 0) === OK;

  test('serve until KVM flushes: one address, or all', () => {
    const bench = warm();
    const { processor } = bench;
    expect([cached(bench, 0x5000), processor.servedByTlb]).toEqual([true, true]);
    processor.flushAddress(0x5000, 0);
    expect([cached(bench, 0x5000), cached(bench, 0x6000)]).toEqual([false, true]);
    processor.flushCurrent();
    expect(cached(bench, 0x6000)).toBe(false);
    const other = warm();
    other.processor.flushAll();
    expect(cached(other, 0x6000)).toBe(false);
  });

  test('are not used by a probe', () => {
    const { processor } = warm();
    expect(processor.probe(READ, 0x5000, 0)).toBe(EXIT);
    expect(processor.translate(READ, 0x5000, 0)).toBe(OK);
  });

  test.each(['amd', 'intel'] as const)('of a guest go with its own INVLPG and MOV CR3 (%s)', (vendor) => {
    const bench = warm({ vendor });
    const { processor } = bench;
    processor.invalidate(StepKind.INVALIDATE | (Invalidation.INVLPG << INVALIDATION_SHIFT), 0x5000, 0, 0, 0);
    expect([cached(bench, 0x5000), cached(bench, 0x6000)]).toEqual([false, true]);
    const write = StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT);
    expect(processor.writeRegister(write, 0x2000, 0)).toBe(OK);
    expect(processor.registers[2 * Reg.CR3]).toBe(0x2000);
    expect(cached(bench, 0x6000)).toBe(false);
  });

  test('are called stale where the guest’s tables no longer support them', () => {
    const bench = new Bench({ vendor: 'amd' });
    bench.mapTables();
    bench.map(0x105);
    expect(cached(bench, 0x5000)).toBe(true);
    bench.host.store(0x4028, 0, 0x17_7067, 0, 8);
    expect([cached(bench, 0x5000), bench.processor.staleHit]).toEqual([true, true]);
    expect(bench.processor.gfn).toBe(0x105);
  });
});

describe('a native register write', () => {
  test('that loads PDPTEs exits where EPT does not map them, and then has not happened', () => {
    const bench = new Bench({ vendor: 'intel' });
    const { processor } = bench;
    bench.set(Reg.EFER, 0);
    const write = StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT);
    expect(processor.writeRegister(write, 0x9000, 0)).toBe(EXIT);
    expect(bench.exit().slice(0, 2)).toEqual([0x9000, 1]);
    expect(processor.registers[2 * Reg.CR3]).toBe(0x1000);
    bench.map(9);
    bench.host.store(0x9000, 0, 0x6, 0, 8);
    expect(processor.writeRegister(write, 0x9000, 0)).toBe(OK);
    bench.host.store(0x9000, 0, 0x7, 0, 8);
    expect(processor.writeRegister(write, 0x9020, 0)).toBe(OK);
    expect(processor.writeRegister(write, 0x9000, 0)).toBe(GUEST_FAULT);
    expect([processor.vector, processor.registers[2 * Reg.CR3]]).toEqual([13, 0x9020]);
  });
});
