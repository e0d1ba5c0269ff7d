/** SPTEs bit by bit: the tables of facts/kvm-6.1.md §6 and facts/kvm-mmu.md §6.11, and values that recordings have. */

import { describe, expect, test } from 'vitest';
import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { frameHi, frameLo, frameOf, SpteFormat } from '../../src/mmu/spte.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../../src/paging/permissions.ts';

const RWUX = ACC_READ | ACC_WRITE | ACC_USER | ACC_EXEC;
const RUX = ACC_READ | ACC_USER | ACC_EXEC;
const RWX = ACC_READ | ACC_WRITE | ACC_EXEC;
const RX = ACC_READ | ACC_EXEC;

const NPT: Partial<KvmConfig> = {};
const SHADOW: Partial<KvmConfig> = { tdp: false };
const EPT: Partial<KvmConfig> = { vendor: 'intel' };
const EPT_NO_AD: Partial<KvmConfig> = { vendor: 'intel', eptAd: false };
const EPT_73: Partial<KvmConfig> = { vendor: 'intel', profile: '7.3' };

interface Leaf {
  level?: number;
  prefetch?: boolean;
  hostWritable?: boolean;
  adDisabled?: boolean;
  writeProtectOnly?: boolean;
  /** As a leaf that is writable from the start. */
  dirty?: boolean;
  /** W and MMU-writable taken away again. */
  wrprot?: boolean;
}

function text(format: SpteFormat): string {
  return ((BigInt(format.hi >>> 0) << 32n) | BigInt(format.lo >>> 0)).toString(16);
}

function leaf(config: Partial<KvmConfig>, access: number, frame: number, options: Leaf = {}): string {
  const format = new SpteFormat(defaultKvmConfig(config));
  const { level = 1, prefetch = false, hostWritable = true, adDisabled = false, writeProtectOnly = false } = options;
  format.makeLeaf(level, access, frame, { adDisabled, writeProtectOnly, prefetch, hostWritable });
  if (options.wrprot === true) format.dropWrite();
  const writable = (access & ACC_WRITE) !== 0 && hostWritable && options.wrprot !== true;
  if (writable && options.dirty !== false) format.addDirty();
  if (prefetch) format.track(format.lo, format.hi);
  return text(format);
}

describe('leaves in x86 format', () => {
  test.each<[string, number, Leaf, string]>([
    ['read, write, user', RWUX, {}, '29d3e67'],
    ['prefetched', RWUX, { prefetch: true }, '29d3e47'],
    ['large', RWUX, { level: 2 }, '29d3ee7'],
    ['large, prefetched', RWUX, { level: 3, prefetch: true }, '29d3ec7'],
    ['read-only by the guest', RUX, {}, '29d3a25'],
    ['read-only, prefetched', RUX, { prefetch: true }, '29d3a05'],
    ['refused the right to write', RWUX, { wrprot: true }, '29d3a25'],
    ['host read-only', RWUX, { hostWritable: false }, '29d3825'],
    ['supervisor', RWX, {}, '29d3e63'],
    ['supervisor, read-only', RX, {}, '29d3a21'],
    ['supervisor, read-only, prefetched', RX, { prefetch: true }, '29d3a01'],
    ['supervisor, prefetched', RWX, { prefetch: true }, '29d3e43'],
    ['rebuilt over a writable one: D is lost', RWUX, { dirty: false }, '29d3e27'],
    ['the same in a synchronised table', RWUX, { dirty: false, prefetch: true }, '29d3e07'],
    ['no execution', RWUX & ~ACC_EXEC, {}, '80000000029d3e67'],
    ['no execution, read-only, prefetched', RUX & ~ACC_EXEC, { prefetch: true }, '80000000029d3a05'],
  ])('%s', (_, access, options, expected) => {
    expect(leaf(SHADOW, access, 0x29d3, options)).toBe(expected);
    expect(leaf(NPT, access, 0x29d3, options)).toBe(expected);
  });

  test('the right to write goes as its cause demands', () => {
    const format = new SpteFormat(defaultKvmConfig(SHADOW));
    format.makeLeaf(1, RWUX, 0x29f7, flags());
    format.addDirty();
    expect(text(format)).toBe('29f7e67');
    // Dirty log: e65; for shadowing: a65 (both in a_npt1 and c_nest_np1).
    expect((format.lo & ~2).toString(16)).toBe('29f7e65');
    format.dropWrite();
    expect(text(format)).toBe('29f7a65');
  });

  test('A/D types stand in bits 53:52, in 7.3 in 61:60', () => {
    expect(leaf(NPT, RWUX, 0x100, { adDisabled: true })).toBe('10000000100e07');
    expect(leaf(NPT, RWUX, 0x100, { writeProtectOnly: true })).toBe('20000000100e67');
    expect(leaf({ profile: '7.3' }, RWUX, 0x100, { writeProtectOnly: true })).toBe('2000000000100e67');
  });
});

describe('leaves in EPT format', () => {
  test.each<[string, Partial<KvmConfig>, Leaf, string]>([
    ['ept1_g64', EPT, {}, '600000000100b77'],
    ['prefetched, ept1_notdp_g64', EPT, { prefetch: true }, '600000000100a77'],
    ['large, ept1_g64', EPT, { level: 2 }, '600000000100bf7'],
    ['host read-only, ept1_g64', EPT, { hostWritable: false }, '100975'],
    ['without A/D, ept1_noad_g64', EPT_NO_AD, {}, '610000000100877'],
    ['without A/D, large', EPT_NO_AD, { level: 2 }, '6100000001008f7'],
    ['without A/D, host read-only', EPT_NO_AD, { hostWritable: false }, '10000000100875'],
    ['write protection stands for D', EPT, { writeProtectOnly: true }, '620000000100b77'],
    ['7.3 has its bits at 53 and 55', EPT_73, {}, '80a0000000100f77'],
    ['7.3, A/D types in 61:60', { ...EPT_73, eptAd: false }, {}, '90a0000000100f77'],
  ])('%s', (_, config, options, expected) => {
    expect(leaf(config, RWUX, 0x100, options)).toBe(expected);
  });

  test('what stands for readable is USER in 6.1 and READ in 7.3', () => {
    expect(leaf(EPT, ACC_EXEC | ACC_READ, 0x100)).toBe('200000000100974');
    expect(leaf(EPT_73, ACC_EXEC, 0x100)).toBe('8020000000100974');
    expect(leaf(EPT_73, ACC_EXEC | ACC_READ, 0x100)).toBe('8020000000100975');
    // USER is what a user may execute.
    expect(leaf(EPT_73, ACC_EXEC | ACC_READ | ACC_USER, 0x100)).toBe('8020000000100d75');
  });

  test('rights put aside to notice the next access come back', () => {
    const format = new SpteFormat(defaultKvmConfig(EPT_NO_AD));
    format.makeLeaf(1, RUX, 0x100, flags());
    const before = text(format);
    format.track(format.lo, format.hi);
    // R and X are kept in bits 54 and 56.
    expect(text(format)).toBe('350000000100870');
    expect(format.isAccessTracked(format.lo, format.hi)).toBe(true);
    expect(format.isAccessed(format.lo, format.hi)).toBe(false);
    format.restore(format.lo, format.hi);
    expect(text(format)).toBe(before);
  });
});

describe('tables', () => {
  test.each<[string, Partial<KvmConfig>, boolean, string]>([
    ['x86', NPT, false, '29d3827'],
    ['shadow paging', SHADOW, false, '29d3827'],
    ['EPT', EPT, false, '29d3907'],
    ['EPT without A/D', EPT_NO_AD, false, '100000029d3807'],
    ['of a guest whose tables have no A/D', EPT, true, '100000029d3807'],
  ])('%s', (_, config, adDisabled, expected) => {
    const format = new SpteFormat(defaultKvmConfig(config));
    format.makeTable(0x29d3, adDisabled);
    expect(text(format)).toBe(expected);
    expect(format.isPresent(format.lo)).toBe(true);
    expect(format.isLeaf(format.lo, 2)).toBe(false);
  });
});

describe('MMIO', () => {
  test.each<[string, Partial<KvmConfig>, number, number, string]>([
    ['NPT, a_npt1', NPT, RWUX, 8, '80000e0000047'],
    ['the next generation but nine, a_npt1', NPT, RWUX, 0x12, '80000e0000097'],
    ['a supervisor page under shadow paging, a_npt0', SHADOW, RX | ACC_USER, 8, '80000e0000045'],
    ['read-only for supervisors', SHADOW, RX, 8, '80000e0000041'],
    ['EPT on a host with L1TF, ept1_g64', { ...EPT, l1tfBits: 39 }, RWUX, 8, 'f80e0000046'],
    ['shadow paging on such a host, ept0_g64', { ...SHADOW, l1tfBits: 39 }, RX | ACC_USER, 10, '80f80e0000055'],
  ])('%s', (_, config, access, generation, expected) => {
    const format = new SpteFormat(defaultKvmConfig(config));
    expect(format.makeMmio(0xe0000, access, generation)).toBe(generation);
    expect(text(format)).toBe(expected);
    expect(format.isMmio(format.lo, format.hi)).toBe(true);
    expect(format.isPresent(format.lo)).toBe(false);
    expect(format.mmioGfnOf(format.lo, format.hi)).toBe(0xe0000);
    expect(format.mmioGenerationOf(format.lo, format.hi)).toBe(generation);
  });

  test('19 bits of the generation, 18 in 7.3, in two places', () => {
    for (const [profile, width] of [
      ['6.1', 19],
      ['7.3', 18],
    ] as const) {
      const format = new SpteFormat(defaultKvmConfig({ profile }));
      for (const generation of [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x2_aaaa, 2 ** width - 1]) {
        format.makeMmio(0xe0000, 0, generation);
        expect(format.mmioGenerationOf(format.lo, format.hi)).toBe(generation);
        expect(format.mmioGfnOf(format.lo, format.hi)).toBe(0xe0000);
      }
      expect(format.makeMmio(0xe0000, 0, 2 ** width + 5)).toBe(5);
    }
  });

  test('frame bits under the L1TF mask move up by five', () => {
    const format = new SpteFormat(defaultKvmConfig({ ...EPT, l1tfBits: 39 }));
    for (const gfn of [0x800_0000, 0xf80_0000, 0x812_3456, 0x7ff_ffff]) {
      format.makeMmio(gfn, 0, 8);
      expect(format.hi & 0xf80).toBe(0xf80);
      expect(format.mmioGfnOf(format.lo, format.hi)).toBe(gfn);
    }
  });

  test('none on a host whose addresses have 52 bits', () => {
    const format = new SpteFormat(defaultKvmConfig({ hostMaxphyaddr: 52 }));
    expect(format.mmioCaching).toBe(false);
    expect(format.isMmio(0xe0000047 | 0, 0x80000)).toBe(false);
  });
});

test('NX huge pages: no large page is executable, its parts are again', () => {
  const config = { ...EPT, nxHugePages: true };
  expect(leaf(config, RWUX, 0x200, { level: 2 })).toBe('600000000200bf3');
  expect(leaf({ nxHugePages: true }, RWUX, 0x200, { level: 2 })).toBe('8000000000200ee7');
  expect(leaf(config, RWUX, 0x200)).toBe('600000000200b77');
  const format = new SpteFormat(defaultKvmConfig(config));
  format.makeLeaf(2, RWUX, 0x200, flags());
  format.splitPart(format.lo, format.hi, 2, 5, RWUX);
  expect(text(format)).toBe('600000000205977');
});

test('a large page splits into its parts', () => {
  const format = new SpteFormat(defaultKvmConfig());
  format.makeLeaf(3, RWUX, 0x4_0000, flags());
  format.splitPart(format.lo, format.hi, 3, 511, RWUX);
  expect(frameOf(format.lo, format.hi)).toBe(0x7_fe00);
  expect(format.isLeaf(format.lo, 2)).toBe(true);
  format.splitPart(format.lo, format.hi, 2, 1, RWUX);
  expect(text(format)).toBe('7fe01e27');
});

test("the host's change of a PTE takes all rights to write, and A", () => {
  const format = new SpteFormat(defaultKvmConfig());
  format.makeLeaf(1, RWUX, 0x100, flags());
  format.withFrame(format.lo, format.hi, 0x200);
  expect(text(format)).toBe('200805');
});

test('frozen entries', () => {
  const old = new SpteFormat(defaultKvmConfig());
  expect(old.isFrozen(0x5a0, 0)).toBe(true);
  const recent = new SpteFormat(defaultKvmConfig({ profile: '7.3' }));
  expect(recent.isFrozen(0x1a0, 0x8000_0000 | 0)).toBe(true);
  expect(old.isPresent(0x5a0)).toBe(false);
});

test('frames of 40 bits', () => {
  for (const frame of [0, 0xf_ffff, 0x10_0000, 0xff_ffff_ffff]) {
    expect(frameOf(frameLo(frame), frameHi(frame))).toBe(frame);
  }
});

function flags(): { adDisabled: boolean; writeProtectOnly: boolean; prefetch: boolean; hostWritable: boolean } {
  return { adDisabled: false, writeProtectOnly: false, prefetch: false, hostWritable: true };
}
