/** Which cells a software walk reaches, case by case. */

import { beforeEach, describe, expect, test } from 'vitest';
import { CR0_WP, CR4_PAE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_LME, EFER_NXE, Reg } from '../../src/formats/registers.ts';
import type { Vcpu } from '../../src/mmu/vcpu.ts';
import { FETCH, USER, WRITE } from '../../src/paging/access.ts';
import type { KvmPageWalk } from '../../src/paging/kvm-page-walk.ts';
import { cpuRole, eptCpuRole } from '../../src/paging/kvm-roles.ts';
import { softwareWalk } from '../../src/paging/software-walk.ts';
import { COVERAGE_CELLS } from '../../src/replay/coverage-cells.ts';
import { CoverageSet } from '../../src/replay/coverage-set.ts';
import { SoftwareCoverage } from '../../src/replay/coverage-software.ts';
import { KvmRig } from '../paging/kvm-world.ts';

const LONG = EFER_LME | EFER_LMA | EFER_NXE;

let rig: KvmRig;
let set: CoverageSet;
let coverage: SoftwareCoverage;

beforeEach(() => {
  rig = new KvmRig();
  set = new CoverageSet();
  coverage = new SoftwareCoverage(set);
});

/** CR3's tables, level n at (5 - n) × 0x1000; entries at index 0. */
function cpuWalk(cr4 = 0, cr0 = 0): KvmPageWalk {
  const inputs = { cr0: (0x8000_0011 | cr0) >>> 0, cr4: CR4_PAE | cr4, efer: LONG, smm: false, guestMode: false };
  rig.set(Reg.CR0, BigInt(inputs.cr0));
  rig.set(Reg.CR3, 0x1000n);
  const walk = rig.walk({ profile: '7.3' });
  walk.init(cpuRole('7.3', inputs));
  return walk;
}

function tables(...entries: bigint[]): void {
  entries.forEach((entry, i) => {
    rig.memory.store(0x1000 * (i + 1), entry, 8);
  });
}

function watch(cpu: KvmPageWalk, tdp: KvmPageWalk = rig.walk({ profile: '7.3', ngpa: true, ept: true })): void {
  coverage.attach({ cpuWalk: cpu, tdpWalk: tdp, wiring: { cpuWalks: [cpu] } } as unknown as Vcpu);
}

/** Cells reached, but for those of entries that were in order. */
function reached(walk: KvmPageWalk, access: number): string[] {
  softwareWalk(walk, 0, 0, access);
  coverage.endStep();
  expect([...set.unlisted]).toEqual([]);
  const names = COVERAGE_CELLS.filter(({ number }) => set.has(number)).map(({ name }) => name);
  return names
    .filter((name) => !/\/(present|reserved|format|accessed)\/.*(pass|level|was-set|ept-4)$/.test(name))
    .sort();
}

describe('a walk of CR3’s tables', () => {
  test('passes: rights of the leaf, D was clear', () => {
    const walk = cpuWalk();
    watch(walk);
    tables(0x2027n, 0x3027n, 0x4027n, 0x5027n);
    expect(reached(walk, WRITE | USER)).toEqual([
      'kvm.cpuWalk/dirty/l1/set',
      'kvm.cpuWalk/rights-user/l1/pass',
      'kvm.cpuWalk/rights-write/l1/pass',
      'kvm.cpuWalk/rights/l1/pass',
    ]);
  });

  test('a table in no memslot fails at its own level', () => {
    const walk = cpuWalk();
    watch(walk);
    tables(0x2027n, 0x3027n, 0x4027n, 0x5027n);
    rig.memory.absent.add(3);
    expect(reached(walk, 0)).toEqual(['kvm.cpuWalk/memslot/l2/fail']);
  });

  test('the root in no memslot', () => {
    const walk = cpuWalk();
    watch(walk);
    rig.memory.absent.add(1);
    expect(reached(walk, 0)).toEqual(['kvm.cpuWalk/memslot/l4/fail']);
  });

  test('not present, reserved', () => {
    const walk = cpuWalk();
    watch(walk);
    tables(0x2027n, 0x3027n, 0n);
    expect(reached(walk, 0)).toEqual(['kvm.cpuWalk/present/l2/fail']);
    tables(0x20a7n);
    expect(reached(walk, 0)).toEqual(['kvm.cpuWalk/present/l2/fail', 'kvm.cpuWalk/reserved/l4/fail']);
  });

  test.each([
    ['user', 0x5023n, USER, 0, 0, 'rights-user/l1/fail'],
    ['write by a user', 0x5025n, USER | WRITE, 0, 0, 'rights-write/l1/fail'],
    ['write with CR0.WP', 0x5021n, WRITE, 0, CR0_WP, 'rights-write/l1/fail-wp'],
    ['no-execute', 0x8000_0000_0000_5027n, FETCH | USER, 0, 0, 'rights-fetch/l1/fail'],
    ['SMEP', 0x5027n, FETCH, CR4_SMEP, 0, 'rights-smep/l1/fail'],
    ['SMAP', 0x5027n, 0, CR4_SMAP, 0, 'rights-smap/l1/fail'],
  ])('one rule broken: %s', (_name, leaf, access, cr4, cr0, cell) => {
    const walk = cpuWalk(cr4, cr0);
    watch(walk);
    tables(0x2027n, 0x3027n, 0x4027n, leaf);
    expect(reached(walk, access)).toEqual(['kvm.cpuWalk/rights/l1/fail', `kvm.cpuWalk/${cell}`].sort());
  });

  test('two rules broken tell neither', () => {
    const walk = cpuWalk();
    watch(walk);
    tables(0x2027n, 0x3027n, 0x4027n, 0x5021n);
    expect(reached(walk, USER | WRITE)).toEqual(['kvm.cpuWalk/rights/l1/fail']);
  });
});

describe('a walk with a second stage', () => {
  /** EPT12 at 0x9000 maps the first 2 MiB to themselves; `leaf` is its level-2 entry. */
  function nested(leaf: bigint): KvmPageWalk {
    const walk = cpuWalk();
    const tdp = rig.walk({ profile: '7.3', ngpa: true, ept: true });
    rig.set(Reg.EPTP, 0x9000n | 0x1en);
    tdp.init(eptCpuRole('7.3', 0x901e, false, false));
    walk.second = tdp;
    watch(walk, tdp);
    rig.memory.store(0x9000, 0xa007n, 8);
    rig.memory.store(0xa000, 0xb007n, 8);
    rig.memory.store(0xb000, leaf, 8);
    tables(0x2027n, 0x3027n, 0x4027n, 0x5067n);
    return walk;
  }

  test('is the walk of an L2, and passes both', () => {
    const names = reached(nested(0xb7n), USER);
    expect(names).toContain('kvm.nestedCpuWalk/second-of-final/pass');
    expect(names).toContain('kvm.nestedCpuWalk/second-of-table/l4/pass');
    expect(names).toContain('kvm.tdpWalk/rights/l2/pass');
    expect(names.filter((name) => name.startsWith('kvm.cpuWalk'))).toEqual([]);
  });

  test('ends where the second stage does', () => {
    const names = reached(nested(0n), USER);
    expect(names).toContain('kvm.nestedCpuWalk/second-of-table/l4/fail');
    expect(names).toContain('kvm.tdpWalk/present/l2/fail');
    expect(names.some((name) => name.includes('nestedCpuWalk/rights'))).toBe(false);
  });
});
