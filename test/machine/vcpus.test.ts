/** Several vCPUs: memory is common; registers, cached translations and invalidations are each one's own. */

import { expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import { StepKind } from '../../src/formats/step.ts';
import {
  CR0_PAGING,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  EFER_LONG,
  EPT_A,
  EPT_B,
  eptp,
  expectAllowed,
  expectForgotten,
  makeStale,
  PML4,
  PT,
  page,
  Rig,
} from './rig.ts';

const PTE_5 = PT + 0x28n;

function use(rig: Rig, vcpu: number): number {
  rig.apply(StepKind.VCPU, 0n, BigInt(vcpu));
  return rig.next - 1;
}

/** Two vCPUs with the same registers; the steps that follow are those of vCPU 0. */
function twoVcpus(): Rig {
  const rig = new Rig();
  use(rig, 1);
  rig.set(Reg.CR0, CR0_PAGING);
  rig.set(Reg.CR3, PML4);
  rig.set(Reg.CR4, CR4_PAE);
  rig.set(Reg.EFER, EFER_LONG);
  use(rig, 0);
  return rig;
}

test('a vCPU that was not seen before has all registers 0, and finds its own again later', () => {
  const rig = new Rig();
  use(rig, 7);
  expect(rig.register(Reg.CR3)).toBe(0n);
  expect(rig.read(0x5000n)).toBe('0x5000');
  rig.set(Reg.CR3, 0x9000n);
  use(rig, 0);
  expect(rig.register(Reg.CR3)).toBe(PML4);
  expect(rig.read(0x5000n)).toBe('0x105000');
  use(rig, 7);
  expect(rig.register(Reg.CR3)).toBe(0x9000n);
});

test('a store by one is seen by all', () => {
  const rig = twoVcpus();
  use(rig, 1);
  rig.store(PTE_5, page(0x205n));
  expect(rig.read(0x5000n)).toBe('0x205000');
  use(rig, 0);
  expect(rig.read(0x5000n)).toBe('0x205000');
});

test('what one has cached the other does not use', () => {
  const rig = twoVcpus();
  rig.read(0x5000n);
  rig.store(PTE_5, page(0x205n));
  use(rig, 1);
  expect(rig.read(0x5000n)).toBe('0x205000');
  use(rig, 0);
  expect(rig.read(0x5000n)).toBe('0x105000');
  expect(rig.machine.staleHit).toBe(true);
});

test('an invalidation by one leaves what the other may still use', () => {
  const rig = twoVcpus();
  const stale = makeStale(rig, 5n);
  const step = rig.invlpg(stale.address);
  expectForgotten(rig, stale, step);
  use(rig, 1);
  expectAllowed(rig, stale);
  const own = rig.invlpg(stale.address);
  expectForgotten(rig, stale, own);
});

test.each<[string, (rig: Rig) => number]>([
  ['INVPCID of everything', (rig) => rig.invalidate('INVPCID', 2)],
  ['MOV to CR3', (rig) => rig.write(Reg.CR3, PML4)],
  ['a change of CR4.PGE', (rig) => rig.write(Reg.CR4, CR4_PAE | CR4_PGE)],
])('%s by one leaves what the other may still use', (_, invalidate) => {
  const rig = twoVcpus();
  const stale = makeStale(rig, 5n);
  invalidate(rig);
  use(rig, 1);
  expectAllowed(rig, stale);
});

test('TLB_CONTROL 1 drops everything of one vCPU and nothing of the others', () => {
  const rig = twoVcpus();
  const stale = makeStale(rig, 5n);
  const step = rig.vmrun(1);
  expectForgotten(rig, stale, step);
  use(rig, 1);
  expectAllowed(rig, stale);
});

test('what had changed before a vCPU was first seen it cannot have cached', () => {
  const rig = new Rig();
  const stale = makeStale(rig, 5n);
  const step = use(rig, 1);
  rig.set(Reg.CR0, CR0_PAGING);
  rig.set(Reg.CR3, PML4);
  rig.set(Reg.CR4, CR4_PAE);
  rig.set(Reg.EFER, EFER_LONG);
  expectForgotten(rig, stale, step);
  use(rig, 0);
  expectAllowed(rig, stale);
});

test("an earlier root is the vCPU's own", () => {
  const rig = twoVcpus();
  rig.set(Reg.CR4, CR4_PAE | CR4_PCIDE);
  rig.hold(0x6000n, 0n);
  rig.read(0x5000n);
  rig.write(Reg.CR3, 0x6000n | (1n << 63n));
  expect(rig.judge('read', 0x5000n, '0x105000')).toMatchObject({ kind: 'allowed' });
  use(rig, 1);
  rig.set(Reg.CR3, 0x6000n);
  expect(rig.judge('read', 0x5000n, '0x105000')).toEqual({ kind: 'none' });
});

test('INVEPT by one leaves the translations of the other', () => {
  const rig = twoVcpus();
  for (const vcpu of [1, 0]) {
    use(rig, vcpu);
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    expect(rig.read(0x20_0000n)).toBe('0x400000');
  }
  // EPT maps the page at 4 MB to 12 MB from now on.
  const changed = rig.store(EPT_A + 0x1_0010n, 0xc0_07b7n);
  rig.invalidate('INVEPT', 1, 0n, eptp(EPT_A));
  expect(rig.read(0x20_0000n)).toBe('0xc00000');
  use(rig, 1);
  expect(rig.judge('read', 0x20_0000n, '0x400000')).toMatchObject({ kind: 'allowed', replacedAt: changed });
  rig.invalidate('INVEPT', 1, 0n, eptp(EPT_B));
  expect(rig.judge('read', 0x20_0000n, '0x400000')).toMatchObject({ kind: 'allowed', replacedAt: changed });
});

test("all 64 vCPUs can be there, more are the reader's business", () => {
  const rig = new Rig();
  for (let vcpu = 63; vcpu >= 0; vcpu--) {
    use(rig, vcpu);
    rig.set(Reg.PKRU, BigInt(vcpu));
  }
  for (let vcpu = 0; vcpu < 64; vcpu++) {
    use(rig, vcpu);
    expect(rig.register(Reg.PKRU)).toBe(BigInt(vcpu));
  }
  expect(() => use(rig, 64)).toThrow('passed the reader unchecked');
});

test('an invalidation is forgotten as such when there are too many of them', () => {
  const rig = twoVcpus();
  makeStale(rig, 5n);
  for (let i = 0; i < 20_000; i++) rig.invlpg(0x9000n);
  expect(rig.judge('read', 0x5000n, '0x999000')).toMatchObject({ kind: 'undetermined' });
  use(rig, 1);
  expect(rig.judge('read', 0x5000n, '0x999000')).toEqual({ kind: 'none' });
});
