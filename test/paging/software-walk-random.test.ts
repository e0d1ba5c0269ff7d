/**
 * KVM's software walk against the plain walker on random worlds (`world.ts`), both profiles, one stage and two.
 *
 * Compared are how the walk ended (address, error code, qualification, nGPA), every entry read in its order, every entry
 * written with its value. Where KVM differs from a processor by design, the case is put as KVM has it or left out:
 *
 * - the address is canonical, no shadow stacks, no PKRS: not the walk's business;
 * - 32-bit paging: PSE-36 with address bits 35:32, and F in the error code by EFER.NXE alone (facts §4, §2.3);
 * - PAE under NPT: its PDPTEs are not read by each walk; NPT12 in PAE format: reserved bits of PDPTEs go unseen (§4);
 * - EPT without A/D bits: KVM reads the guest's tables with write intent (§5.2), so only
 *   ends and writes of walks that both finish are compared;
 * - 6.1 lets nobody execute what is execute-only under EPT12, see `software-walk.test.ts`;
 * - two entries of a walk that are one word: KVM starts again, and reads more.
 */

import { describe, expect, test } from 'vitest';
import type { KvmProfile } from '../../src/formats/decode/kvm-role.ts';
import { CR0_PG } from '../../src/formats/registers.ts';
import { FETCH, USER, WRITE } from '../../src/paging/access.ts';
import { IMPLICIT_ACCESS, type KvmPageWalk, PdpteSource } from '../../src/paging/kvm-page-walk.ts';
import { cpuRole, eptCpuRole, nptCpuRole } from '../../src/paging/kvm-roles.ts';
import { softwareWalk } from '../../src/paging/software-walk.ts';
import { WordMap } from '../reference/plain-memory.ts';
import { type PlainAccess, type PlainMachine, type PlainWalk, plainWalk } from '../reference/plain-walker.ts';
import { Random } from '../reference/random.ts';
import { mutated, randomAccess, randomAddress } from './accesses.ts';
import { registersOf } from './differential.ts';
import { KvmRig } from './kvm-world.ts';
import { randomProcessor, type World, WorldBuilder } from './world.ts';

const SEED = 20_261_122;
const EPOCHS = 220;
const ACCESSES = 24;

interface Case {
  readonly profile: KvmProfile;
  readonly rig: KvmRig;
  readonly plainMemory: WordMap;
  readonly machine: PlainMachine;
  readonly walk: KvmPageWalk;
}

const low = (value: bigint): number => Number(value & 0xffff_ffffn);

/** The world's machine as KVM's rules have it; undefined: nothing to compare. */
function comparable(world: World, profile: KvmProfile): PlainMachine | undefined {
  const { processor, paging } = world;
  const { secondStage } = world.machine;
  const machine: PlainMachine = { ...world.machine, pkrs: 0n, afterTranslation: true };
  const hostPae = secondStage?.kind === 'npt' && (secondStage.hostCr4 & 0x20n) !== 0n;
  const any32 = paging === '32-bit' || (secondStage?.kind === 'npt' && !hostPae);
  if (any32 && !(processor.pse36 && processor.maxphyaddr === 36)) return undefined;
  if (paging === 'pae' && secondStage?.kind === 'npt') return undefined;
  if (secondStage === undefined) return machine;
  if (secondStage.kind === 'npt') {
    if (profile === '6.1' && secondStage.gmet) return undefined;
    // Outside long mode nCR3 is given without junk above its 32 bits.
    const long = (secondStage.hostEfer & 0x400n) !== 0n;
    const ncr3 = long ? secondStage.ncr3 : secondStage.ncr3 & 0xffff_ffffn;
    return { ...machine, secondStage: { ...secondStage, ncr3 } };
  }
  if (profile === '6.1' && secondStage.mbec) return undefined;
  const executeOnly = secondStage.executeOnly && profile !== '6.1';
  return { ...machine, secondStage: { ...secondStage, executeOnly, advancedInfo: false } };
}

function buildCase(rig: KvmRig, plainMemory: WordMap, world: World, machine: PlainMachine, profile: KvmProfile): Case {
  const { processor } = world;
  const { secondStage } = machine;
  for (const [register, value] of registersOf(machine)) rig.set(register, value);
  const features = {
    amd: processor.vendor === 'amd',
    maxphyaddr: processor.maxphyaddr,
    pse36: processor.pse36,
    page1g: processor.page1g,
    eptExecuteOnly: processor.executeOnly,
    ept2m: processor.ept2m,
    ept1g: processor.ept1g,
    eptAdvancedInfo: false,
  };
  const walk = rig.walk({ profile, features });
  const guestMode = secondStage !== undefined;
  const mode = { cr0: low(machine.cr0), cr4: low(machine.cr4), efer: low(machine.efer) };
  walk.init(cpuRole(profile, { ...mode, smm: false, guestMode }));
  walk.pdpteSource = PdpteSource.LOADED;
  machine.pdptes.forEach((value, i) => {
    walk.pdptes[2 * i] = low(value);
    walk.pdptes[2 * i + 1] = low(value >> 32n);
  });
  if (secondStage !== undefined) {
    const ept = secondStage.kind === 'ept';
    const second = rig.walk({ profile, features, ngpa: true, ept });
    second.init(
      secondStage.kind === 'ept'
        ? eptCpuRole(profile, low(secondStage.eptp), secondStage.executeOnly, secondStage.mbec)
        : nptCpuRole(
            profile,
            { cr4: low(secondStage.hostCr4), efer: low(secondStage.hostEfer), smm: false },
            secondStage.gmet,
          ),
    );
    walk.second = second;
  }
  return { profile, rig, plainMemory, machine, walk };
}

function accessBits(access: PlainAccess): number {
  const write = access.kind === 'write' || access.kind === 'rmw';
  return (
    (write ? WRITE : 0) |
    (access.kind === 'fetch' ? FETCH : 0) |
    (access.user ? USER : 0) |
    (access.implicit ? IMPLICIT_ACCESS : 0)
  );
}

/** How the plain walk ended, as KVM would tell it; addresses of the second stage by frame. */
function plainEnd(plain: PlainWalk, { machine, profile }: Case, access: PlainAccess): string {
  const { outcome } = plain;
  switch (outcome.kind) {
    case 'translated':
      return `frame ${(outcome.address >> 12n).toString(16)}`;
    case 'exception': {
      const pae = (machine.cr4 & 0x20n) !== 0n;
      const nxe = (machine.efer & 0x800n) !== 0n;
      const f = access.kind === 'fetch' && !pae && nxe ? 0x10n : 0n;
      return `#PF ${(outcome.errorCode | f).toString(16)} at ${outcome.cr2!.toString(16)}`;
    }
    case 'npf': {
      const stage = machine.secondStage;
      if (stage?.kind !== 'npt') throw new Error('no NPT');
      const f = access.kind === 'fetch' && (outcome.exitInfo1 & 2n) === 0n && (stage.hostEfer & 0x800n) !== 0n;
      const final = ((outcome.exitInfo1 >> 32n) & 1n) !== 0n;
      const code = outcome.exitInfo1 | (final && f ? 0x10n : 0n);
      return `NPF ${(profile === '6.1' ? code & 0xffff_ffffn : code).toString(16)} at ${(outcome.exitInfo2 >> 12n).toString(16)}`;
    }
    case 'ept-misconfig':
      return `misconfiguration at ${(outcome.gpa >> 12n).toString(16)}`;
    case 'ept-violation': {
      // 6.1 knows every access as a read, and leaves bits 8:7 as they were.
      const own = profile === '6.1' ? (outcome.qualification & 0x3fn) | 1n : outcome.qualification;
      return `violation ${own.toString(16)} at ${(outcome.gpa >> 12n).toString(16)}`;
    }
  }
}

function kvmEnd(ok: boolean, { walk, rig }: Case): string {
  if (ok) return `frame ${walk.gfn.toString(16)}`;
  const { fault } = rig;
  const address = (BigInt(fault.addressHi >>> 0) << 32n) | BigInt(fault.addressLo >>> 0);
  const code = (BigInt(fault.errorCodeHi) << 32n) | BigInt(fault.errorCode);
  if (!fault.nested) return `#PF ${code.toString(16)} at ${address.toString(16)}`;
  const frame = (address >> 12n).toString(16);
  if (!walk.second!.ept) return `NPF ${code.toString(16)} at ${frame}`;
  if ((code & 8n) !== 0n) return `misconfiguration at ${frame}`;
  return `violation ${fault.qualification.toString(16)} at ${frame}`;
}

function plainElements(plain: PlainWalk): string[] {
  return plain.events.flatMap((event) =>
    event.type === 'element' || event.type === 'pdpte-register'
      ? [`element ${event.level} ${event.value.toString(16)}`]
      : [],
  );
}

function plainWrites(plain: PlainWalk): string[] {
  return plain.events.flatMap((event) =>
    event.type === 'entry-write' ? [`${event.address.toString(16)} = ${event.value.toString(16)}`] : [],
  );
}

/** An entry of the walk is read again below. */
function aliased(plain: PlainWalk): boolean {
  const seen = new Map<bigint, string>();
  return plain.events.some((event) => {
    if (event.type !== 'element') return false;
    const word = event.address >> 3n;
    const role = `${event.dimension} ${event.level}`;
    const before = seen.get(word);
    seen.set(word, role);
    return before !== undefined && (event.dimension === 'guest' || before !== role);
  });
}

/** NPT12 in PAE format with a reserved bit in the PDPTE: only a processor minds. */
function endsAtPdpteInMemory(plain: PlainWalk): boolean {
  if (plain.outcome.kind !== 'npf' || (plain.outcome.exitInfo1 & 8n) === 0n) return false;
  const last = plain.events.findLast((event) => event.type === 'element');
  return last?.dimension === 'npt' && last.level === 3 && last.bytes === 8;
}

/** Under EPT without A/D bits KVM asks more of the pages of guest tables than a processor does. */
function withoutAd({ machine }: Case): boolean {
  const { secondStage } = machine;
  return secondStage?.kind === 'ept' && (secondStage.eptp & 0x40n) === 0n;
}

class Comparison {
  cases = 0;
  readonly ends = new Map<string, number>();
  readonly differences: string[] = [];

  run(profile: KvmProfile): void {
    for (let epoch = 0; epoch < EPOCHS; epoch++) {
      const random = new Random(SEED, epoch);
      const base = randomProcessor(random);
      const processor = random.chance(0.4) ? { ...base, maxphyaddr: 36, pse36: true } : base;
      this.runWorld(random, processor, profile, epoch);
    }
  }

  private runWorld(
    random: Random,
    processor: ReturnType<typeof randomProcessor>,
    profile: KvmProfile,
    epoch: number,
  ): void {
    const rig = new KvmRig();
    const plainMemory = new WordMap();
    const store = (address: number, value: bigint, size: 4 | 8): void => {
      rig.memory.store(address, value, size);
      if (size === 4) plainMemory.write32(BigInt(address), value);
      else plainMemory.write64(BigInt(address), value);
    };
    const world = new WorldBuilder(random, processor, store, true).build();
    const machine = comparable(world, profile);
    if (machine === undefined) return;
    const the = buildCase(rig, plainMemory, world, machine, profile);
    for (let i = 0; i < ACCESSES; i++) {
      const access = { ...randomAccess(random, world, randomAddress(random, world)), shadowStack: false };
      const { outcome } = plainWalk({ ...machine, ac: access.ac }, new ReadOnly(plainMemory), access);
      if (outcome.kind === 'exception' && outcome.vector === 13) continue;
      const plain = this.compare(the, access, `epoch ${epoch}, access ${i}`);
      const reads = plain.events.filter((event) => event.type === 'element');
      if (reads.length > 0 && random.chance(0.5)) {
        const entry = random.pick(reads);
        store(Number(entry.address), mutated(random, world, entry), entry.bytes);
      }
    }
  }

  private compare(the: Case, access: PlainAccess & { ac: boolean }, place: string): PlainWalk {
    const { machine, rig, walk, plainMemory } = the;
    const plain = plainWalk({ ...machine, ac: access.ac }, plainMemory, access);
    walk.ac = access.ac;
    rig.fault.qualification = 0;
    rig.memory.writes = [];
    const paged = (machine.cr0 & BigInt(CR0_PG)) !== 0n;
    const linear = paged && (machine.efer & 0x400n) !== 0n ? access.address : access.address & 0xffff_ffffn;
    const ok = softwareWalk(walk, low(linear) | 0, Number(BigInt.asIntN(32, linear >> 32n)), accessBits(access));
    const events = rig.events();
    const reads = events.filter((text) => text.startsWith('element'));
    const writes = rig.memory.writes.map(({ address, value }) => `${address.toString(16)} = ${value.toString(16)}`);

    const bothFinish = ok && plain.outcome.kind === 'translated';
    const skipped = (withoutAd(the) && !bothFinish) || endsAtPdpteInMemory(plain);
    if (!skipped) {
      this.cases++;
      const end = kvmEnd(ok, the);
      const kind = end.replace(/ at .*/, '').replace(/frame .*/, 'frame');
      this.ends.set(kind, (this.ends.get(kind) ?? 0) + 1);
      // A processor looks up again what it writes back through EPT without A/D bits.
      const sameReads = !aliased(plain) && !withoutAd(the);
      const sameWrites = !aliased(plain);
      const seen = [end, ...(sameReads ? reads : []), ...(sameWrites ? writes : [])];
      const wanted = [
        plainEnd(plain, the, access),
        ...(sameReads ? plainElements(plain) : []),
        ...(sameWrites ? plainWrites(plain) : []),
      ];
      if (JSON.stringify(seen) !== JSON.stringify(wanted) && this.differences.length < 5) {
        const json = JSON.stringify(access, (_, v) => (typeof v === 'bigint' ? v.toString(16) : v));
        this.differences.push([place, json, ...events, 'seen:', ...seen, 'wanted:', ...wanted].join('\n'));
      }
    }
    // Whatever the plain walker wrote or did not, both go on from KVM's memory.
    for (const event of plain.events) {
      if (event.type === 'entry-write') this.copy(the, event.address);
    }
    for (const { address } of rig.memory.writes) this.copy(the, address);
    return plain;
  }

  private copy({ rig, plainMemory }: Case, address: bigint): void {
    const at = address & ~7n;
    const number = Number(at);
    const page = rig.memory.pageIndexOf(Math.floor(number / 0x1000));
    const word = page + ((number & 0xfff) >>> 2);
    const { words } = rig.memory;
    plainMemory.write64(at, (BigInt(words[word + 1]! >>> 0) << 32n) | BigInt(words[word]! >>> 0));
  }
}

/** Lets the plain walker look without a trace. */
class ReadOnly extends WordMap {
  private readonly under: WordMap;

  constructor(under: WordMap) {
    super();
    this.under = under;
  }

  override read64(address: bigint): bigint {
    return this.words.get(Number(address >> 3n)) ?? this.under.read64(address);
  }
}

describe.each<[KvmProfile]>([['6.1'], ['7.3']])('KVM %s against the plain walker', (profile) => {
  test('walks end, read and write as the plain ones do', () => {
    const comparison = new Comparison();
    comparison.run(profile);
    expect(comparison.differences).toEqual([]);
    expect(comparison.cases).toBeGreaterThan(2000);
    const count = (kind: string): number =>
      [...comparison.ends].reduce((sum, [name, n]) => (name.startsWith(kind) ? sum + n : sum), 0);
    for (const kind of ['frame', '#PF', 'NPF', 'violation', 'misconfiguration']) {
      expect(count(kind), kind).toBeGreaterThan(15);
    }
    if (process.env['REWALK_SHOW'] !== undefined) console.log(comparison.cases, comparison.ends);
  });
});
