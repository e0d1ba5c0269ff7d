/** What a flush of KVM's takes from the processor, and what it leaves: one that is forgotten must show. */

import { describe, expect, test } from 'vitest';
import { defaultKvmConfig, type KvmConfig } from '../../../src/formats/kvm-config.ts';
import { CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, Reg } from '../../../src/formats/registers.ts';
import { StepKind } from '../../../src/formats/step.ts';
import { HostMemory } from '../../../src/machine/kvm/host-memory.ts';
import { Outcome, Processor } from '../../../src/machine/kvm/processor.ts';
import { HEADER } from '../rig.ts';
import { HandTables } from './hand-tables.ts';

const READ = StepKind.ACCESS;
const L1_PAGE = 0x5000;
const L2_PAGE = 0x6000;

/** Two roots over the same guest: each maps the guest's tables and pages to themselves. */
class Bench {
  readonly processor: Processor;
  readonly first: HandTables;
  readonly second: HandTables;

  constructor(change: Partial<KvmConfig>) {
    const config = defaultKvmConfig({ hostMaxphyaddr: 46, ...change });
    const host = new HostMemory({ mode: 'free', profile: '6.1', hostMaxphyaddr: 46 });
    this.processor = new Processor(HEADER, config, host);
    for (let table = 1; table < 4; table++) host.store(table << 12, 0, ((table + 1) << 12) | 0x67, 0, 8);
    for (let i = 0; i < 16; i++) host.store(0x4000 + 8 * i, 0, ((0x100 + i) << 12) | 0x67, 0, 8);
    this.processor.setRegister(Reg.CR0, CR0_PG | CR0_WP | 1, 0);
    this.processor.setRegister(Reg.CR3, 0x1000, 0);
    this.processor.setRegister(Reg.CR4, CR4_PAE, 0);
    this.processor.setRegister(Reg.EFER, EFER_LME | EFER_LMA | EFER_NXE, 0);
    const tables = (from: number): HandTables => {
      const made = new HandTables(host.memory, 4, config.vendor === 'intel' && config.tdp ? 'ept-ad' : 'x86', from);
      for (let page = 0; page < 16; page++) {
        const gfns = config.tdp ? [page, 0x100 + page] : [page];
        for (const gfn of gfns) {
          made.map(gfn, host.frameOf(config.tdp ? gfn : 0x100 + gfn, 0), 1, { write: true, execute: true, user: true });
        }
      }
      return made;
    };
    this.first = tables(0);
    this.second = tables(64);
  }

  /** Runs with a tag on a root and reads a page. */
  run(tag: number, tables: HandTables, address: number): void {
    this.processor.useTag(tag);
    this.processor.setRoot(tables.root);
    expect(this.processor.translate(READ, address, 0)).toBe(Outcome.OK);
  }

  /** Reads a page under a tag and root: whether the TLB still has it. */
  serves(tag: number, tables: HandTables, address: number): boolean {
    this.run(tag, tables, address);
    return this.processor.servedByTlb;
  }
}

describe('EPT', () => {
  test('flushing the current root takes its translations of every VPID, and leaves another root’s', () => {
    const b = new Bench({ vendor: 'intel' });
    b.run(1, b.first, L1_PAGE);
    b.run(2, b.second, L2_PAGE);
    b.processor.flushCurrent();
    expect(b.serves(1, b.first, L1_PAGE)).toBe(true);
    expect(b.serves(2, b.second, L2_PAGE)).toBe(false);
  });

  test('flushing the guest takes linear translations of its VPID alone, through whatever root', () => {
    const b = new Bench({ vendor: 'intel' });
    b.run(1, b.first, L1_PAGE);
    b.run(2, b.first, L2_PAGE);
    b.processor.flushGuest();
    expect(b.serves(1, b.first, L1_PAGE)).toBe(true);
    expect(b.serves(2, b.first, L2_PAGE)).toBe(false);
  });

  test('one address goes from its VPID alone', () => {
    const b = new Bench({ vendor: 'intel' });
    b.run(1, b.first, L1_PAGE);
    b.processor.useTag(2);
    b.processor.flushAddress(L1_PAGE, 0);
    expect(b.serves(1, b.first, L1_PAGE)).toBe(true);
    b.processor.flushAddress(L1_PAGE, 0);
    expect(b.serves(1, b.first, L1_PAGE)).toBe(false);
  });

  // Random program 125 of seed 77 (two vCPUs, PAE): after one flush of everything INVLPG took nothing any more.
  test('a flush leaves the next one as effective as itself, in the context that goes on', () => {
    const b = new Bench({ vendor: 'intel' });
    const { processor } = b;
    const served = (): boolean => {
      expect(processor.translate(READ, L1_PAGE, 0)).toBe(Outcome.OK);
      return processor.servedByTlb;
    };
    b.run(1, b.first, L1_PAGE);
    processor.flushAll();
    expect([served(), served()]).toEqual([false, true]);
    processor.flushAddress(L1_PAGE, 0);
    expect([served(), served()]).toEqual([false, true]);
    processor.flushGuest();
    expect([served(), served()]).toEqual([false, true]);
    processor.flushCurrent();
    expect([served(), served()]).toEqual([false, true]);
    processor.flushAddress(L1_PAGE, 0);
    expect(served()).toBe(false);
  });

  test('without a root there is nothing to flush', () => {
    const b = new Bench({ vendor: 'intel' });
    b.run(1, b.first, L1_PAGE);
    b.processor.setRoot(null);
    b.processor.flushCurrent();
    expect(b.serves(1, b.first, L1_PAGE)).toBe(true);
    b.processor.flushAll();
    expect(b.serves(1, b.first, L1_PAGE)).toBe(false);
  });
});

test('SVM: one ASID, whose translations do not know their root; a flush takes them all', () => {
  const b = new Bench({ vendor: 'amd' });
  b.run(1, b.first, L1_PAGE);
  // KVM flushes on every transition, or this is what it gets.
  expect(b.serves(1, b.second, L1_PAGE)).toBe(true);
  b.processor.flushCurrent();
  expect(b.serves(1, b.second, L1_PAGE)).toBe(false);
});

test('shadow paging: VPIDs keep L1’s and L2’s translations apart', () => {
  const b = new Bench({ vendor: 'intel', tdp: false, tdpMmu: false });
  b.run(1, b.first, L1_PAGE);
  b.run(2, b.second, L2_PAGE);
  expect(b.serves(2, b.second, L1_PAGE)).toBe(false);
  // The TLB has one place for both.
  b.run(1, b.first, L1_PAGE);
  b.processor.useTag(2);
  b.processor.flushCurrent();
  expect(b.serves(1, b.first, L1_PAGE)).toBe(true);
  expect(b.serves(2, b.second, L2_PAGE)).toBe(false);
});
