/** Physical memory: what stores change, what the watcher hears, how much there may be. */

import { describe, expect, test } from 'vitest';
import { fromBigInt, toBigInt } from '../../src/bits/word64.ts';
import { Dim, entryWriteRow } from '../../src/formats/observation.ts';
import { StepKind } from '../../src/formats/step.ts';
import { Memory } from '../../src/machine/memory.ts';
import type { EntryFill, PageImage } from '../../src/trace/stimulus.ts';
import { Rig } from './rig.ts';

function load(memory: Memory, address: bigint): bigint {
  const { lo, hi } = fromBigInt(address);
  const word = memory.pageIndex(lo | 0, hi) + ((lo & 0xff8) >>> 2);
  return toBigInt(memory.words[word]!, memory.words[word + 1]!);
}

function store(memory: Memory, address: bigint, value: bigint, size: number): void {
  const a = fromBigInt(address);
  const v = fromBigInt(value);
  memory.store(a.lo | 0, a.hi | 0, v.lo | 0, v.hi | 0, size);
}

describe('a store', () => {
  const OLD = 0x8877_6655_4433_2211n;

  test.each([
    [8, 0n, 0xaaaa_bbbb_cccc_ddddn, 0xaaaa_bbbb_cccc_ddddn],
    [4, 0n, 0xcccc_ddddn, 0x8877_6655_cccc_ddddn],
    [4, 4n, 0xcccc_ddddn, 0xcccc_dddd_4433_2211n],
    [2, 0n, 0xddddn, 0x8877_6655_4433_ddddn],
    [2, 2n, 0xddddn, 0x8877_6655_dddd_2211n],
    [2, 6n, 0xddddn, 0xdddd_6655_4433_2211n],
    [1, 0n, 0xddn, 0x8877_6655_4433_22ddn],
    [1, 3n, 0xddn, 0x8877_6655_dd33_2211n],
    [1, 7n, 0xddn, 0xdd77_6655_4433_2211n],
  ])('of %i bytes at offset %i changes these bytes and no others', (size, offset, value, expected) => {
    const memory = new Memory();
    store(memory, 0x1000n, OLD, 8);
    store(memory, 0x1008n, OLD, 8);
    store(memory, 0x1000n + offset, value, size);
    expect(load(memory, 0x1000n).toString(16)).toBe(expected.toString(16));
    expect(load(memory, 0x1008n)).toBe(OLD);
  });

  test.each([
    [2, 3n, 0xbbaan, 0x8877_66bb_aa33_2211n],
    [4, 1n, 0xddcc_bbaan, 0x8877_66dd_ccbb_aa11n],
    [4, 2n, 0xddcc_bbaan, 0x8877_ddcc_bbaa_2211n],
  ])('of %i bytes at offset %i, across the middle of a word, does the same', (size, offset, value, expected) => {
    const memory = new Memory();
    store(memory, 0x1000n, OLD, 8);
    store(memory, 0x1000n + offset, value, size);
    expect(load(memory, 0x1000n).toString(16)).toBe(expected.toString(16));
  });

  test('takes no more of its operand than its size', () => {
    const memory = new Memory();
    store(memory, 0x1000n, 0xffff_ffff_ffff_ffffn, 1);
    expect(load(memory, 0x1000n)).toBe(0xffn);
  });

  test('to the end of a page leaves the next page alone', () => {
    const memory = new Memory();
    store(memory, 0x2000n, 1n, 8);
    store(memory, 0x1ff8n, OLD, 8);
    expect(load(memory, 0x1ff8n)).toBe(OLD);
    expect(load(memory, 0x2000n)).toBe(1n);
  });
});

describe('pages', () => {
  test('that nobody wrote read as zero, and reading takes none', () => {
    const memory = new Memory();
    const size = memory.words.length;
    for (let i = 0n; i < 2000n; i++) expect(load(memory, i << 12n)).toBe(0n);
    expect(load(memory, 0xf_ffff_ffff_f000n)).toBe(0n);
    expect(memory.words.length).toBe(size);
  });

  test('keep their contents while more are taken', () => {
    const memory = new Memory();
    for (let i = 0n; i < 2000n; i++) store(memory, i << 12n, i + 1n, 8);
    for (let i = 0n; i < 2000n; i++) expect(load(memory, i << 12n)).toBe(i + 1n);
  });

  test.each([
    ['just below 16 GB', 0x3_ffff_f000n],
    ['at 16 GB', 0x4_0000_0000n],
    ['at the end of 52 bits', 0xf_ffff_ffff_f000n],
    ['in the second half of 4 GB', 0xffff_f000n],
  ])('%s are pages of their own', (_, address) => {
    const memory = new Memory();
    store(memory, address & 0xffff_f000n, 1n, 8);
    store(memory, address, 2n, 8);
    expect(load(memory, address)).toBe(2n);
    if (address > 0xffff_ffffn) expect(load(memory, address & 0xffff_f000n)).toBe(1n);
  });

  test('are cleared and replaced as a whole', () => {
    const memory = new Memory();
    store(memory, 0x1008n, 5n, 8);
    store(memory, 0x2000n, 7n, 8);
    const words = new Uint32Array(1024);
    words[0] = 0xffff_ffff;
    words[1023] = 0x8000_0000;
    memory.setPage(0x1000, 0, words);
    expect(load(memory, 0x1000n)).toBe(0xffff_ffffn);
    expect(load(memory, 0x1008n)).toBe(0n);
    expect(load(memory, 0x1ff8n)).toBe(0x8000_0000_0000_0000n);
    memory.setPage(0x1000, 0, null);
    expect(load(memory, 0x1000n)).toBe(0n);
    expect(load(memory, 0x1ff8n)).toBe(0n);
    expect(load(memory, 0x2000n)).toBe(7n);
  });

  test('are limited: a trace cannot make the replay take all of the memory', () => {
    const memory = new Memory();
    // Not taken one by one: that would be a gibibyte.
    Object.assign(memory, { pages: 1 << 18 });
    expect(() => store(memory, 0x1000n, 1n, 8)).toThrow(expect.objectContaining({ code: 'E_LIMIT' }));
  });
});

describe('the watcher', () => {
  function watched(): { memory: Memory; heard: string[] } {
    const memory = new Memory();
    const heard: string[] = [];
    memory.watcher = {
      wordChanges: (lo, hi, oldLo, oldHi) => {
        heard.push(`${toBigInt(lo, hi).toString(16)}: ${toBigInt(oldLo, oldHi).toString(16)}`);
      },
    };
    return { memory, heard };
  }

  test('hears of every change of a word, with the value before', () => {
    const { memory, heard } = watched();
    store(memory, 0x1000n, 0x11n, 8);
    store(memory, 0x1004n, 0x22n, 4);
    store(memory, 0x1001n, 0x33n, 1);
    memory.setEntryBits(0x1004, 0, 0x62);
    memory.setPage(0x1000, 0, null);
    expect(heard).toEqual(['1000: 0', '1000: 11', '1000: 2200000011', '1000: 2200003311', '1000: 6200003311']);
    expect(load(memory, 0x1000n)).toBe(0n);
  });

  test('does not hear of a store that changes nothing', () => {
    const { memory, heard } = watched();
    store(memory, 0x1000n, 0x11n, 8);
    store(memory, 0x1000n, 0x11n, 4);
    memory.setPage(0x2000, 0, null);
    expect(heard).toEqual(['1000: 0']);
  });

  test('does not hear of an exchange, which gives back the old value', () => {
    const { memory, heard } = watched();
    store(memory, 0x1000n, 0x11n, 8);
    expect(memory.exchange(0x1000, 0, 5, 6)).toEqual({ lo: 0x11, hi: 0 });
    expect(load(memory, 0x1000n)).toBe(0x6_0000_0005n);
    expect(heard).toHaveLength(1);
  });
});

describe('steps that change memory', () => {
  test('a page of zeros', () => {
    const rig = new Rig();
    rig.store(0x3_0008n, 5n);
    rig.apply(StepKind.CLEAR_PAGE, 0x3_0000n);
    expect(rig.load(0x3_0008n)).toBe(0n);
  });

  test('a page image', () => {
    const rig = new Rig();
    rig.store(0x3_0008n, 5n);
    const words = new Uint32Array(1024);
    words[4] = 0xdead_beef;
    words[5] = 0x8000_0001;
    const image: PageImage = { kind: 'page-image', address: { lo: 0x3_0000, hi: 2 }, words };
    rig.apply(StepKind.RARE, 0n, 0n, [image]);
    expect(rig.load(0x2_0003_0010n)).toBe(0x8000_0001_dead_beefn);
    expect(rig.load(0x3_0008n)).toBe(5n);
  });

  function fill(of: Partial<EntryFill>): EntryFill {
    const zero = { lo: 0, hi: 0 };
    return { kind: 'entry-fill', address: zero, count: 0, first: zero, increment: zero, size: 8, ...of };
  }

  test('a run of entries of 8 bytes, with carry', () => {
    const rig = new Rig();
    const first = { lo: 0xffff_f067, hi: 0 };
    const run = fill({ address: { lo: 0x3_0ff0, hi: 0 }, count: 3, first, increment: { lo: 0x1000, hi: 0 } });
    rig.apply(StepKind.RARE, 0n, 0n, [run]);
    expect(rig.load(0x3_0ff0n)).toBe(0xffff_f067n);
    expect(rig.load(0x3_0ff8n)).toBe(0x1_0000_0067n);
    expect(rig.load(0x3_1000n)).toBe(0x1_0000_1067n);
    expect(rig.load(0x3_1008n)).toBe(0n);
  });

  test('a run of entries of 4 bytes', () => {
    const rig = new Rig();
    const run = fill({
      address: { lo: 0x3_0004, hi: 0 },
      count: 3,
      first: { lo: 0xffff_f000, hi: 0 },
      increment: { lo: 0x1001, hi: 0 },
      size: 4,
    });
    rig.apply(StepKind.RARE, 0n, 0n, [run]);
    expect(rig.load(0x3_0000n)).toBe(0xffff_f000_0000_0000n);
    expect(rig.load(0x3_0008n)).toBe(0x0000_1002_0000_0001n);
  });

  test('a run of equal entries, and an empty one', () => {
    const rig = new Rig();
    rig.apply(StepKind.RARE, 0n, 0n, [fill({ address: { lo: 0x3_0000, hi: 0 }, count: 2, first: { lo: 7, hi: 0 } })]);
    rig.apply(StepKind.RARE, 0n, 0n, [fill({ address: { lo: 0x3_0000, hi: 0 }, count: 0, first: { lo: 9, hi: 0 } })]);
    expect(rig.load(0x3_0000n)).toBe(7n);
    expect(rig.load(0x3_0008n)).toBe(7n);
    expect(rig.load(0x3_0010n)).toBe(0n);
  });

  test('a note changes nothing', () => {
    const rig = new Rig();
    expect(rig.apply(StepKind.RARE, 0n, 0n, [{ kind: 'note', text: 'a label' }])).toEqual([]);
  });

  test('entries are read and taken over by the size that their row gives', () => {
    const rig = new Rig();
    const four = entryWriteRow(Dim.GUEST, 1, true);
    const eight = entryWriteRow(Dim.GUEST, 1, false);
    rig.store(0x3_0000n, 0x2222_2222_1111_1111n);
    expect(rig.machine.readEntry(four, 0x3_0004, 0)).toEqual([0x2222_2222, 0]);
    expect(rig.machine.readEntry(eight, 0x3_0000, 0)).toEqual([0x1111_1111, 0x2222_2222]);
    rig.machine.adoptEntry(four, 0x3_0004, 0, 0x3333_3333, 0xffff_ffff);
    expect(rig.load(0x3_0000n)).toBe(0x3333_3333_1111_1111n);
    rig.machine.adoptEntry(eight, 0x3_0000, 0, 0x5555_5555, 0x6666_6666);
    expect(rig.load(0x3_0000n)).toBe(0x6666_6666_5555_5555n);
  });
});
