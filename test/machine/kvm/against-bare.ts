/**
 * One guest on two machines: a bare one, and a processor above tables that a hypervisor made by hand, page by page as
 * it exits. Whatever the guest's own tables say, it must not be able to tell.
 */

import { defaultKvmConfig, type KvmConfig } from '../../../src/formats/kvm-config.ts';
import {
  OBS_PAGE_SHIFT_MASK,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../../src/formats/observation.ts';
import { Reg } from '../../../src/formats/registers.ts';
import { accessBits } from '../../../src/machine/access-bits.ts';
import { BareMachine } from '../../../src/machine/bare.ts';
import { HostMemory } from '../../../src/machine/kvm/host-memory.ts';
import { Outcome, Processor } from '../../../src/machine/kvm/processor.ts';
import { WRITE } from '../../../src/paging/access.ts';
import { frameOf } from '../../../src/paging/guest-memory.ts';
import { ACC_EXEC, ACC_USER, ACC_WRITE } from '../../../src/paging/permissions.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_LO } from '../../../src/paging/row-log.ts';
import { randomAccess, randomAddress } from '../../paging/accesses.ts';
import { accessOp, headerOf, registersOf } from '../../paging/differential.ts';
import { randomProcessor, type World, WorldBuilder } from '../../paging/world.ts';
import { Random } from '../../reference/random.ts';
import { HandTables } from './hand-tables.ts';

export type Below = 'npt' | 'ept' | 'ept-ad' | 'shadow';

const ACCESSES = 30;
/** More exits than any access needs: five levels of tables and the page, each first read-only, then writable. */
const MAXIMUM_EXITS = 40;
const CR0_WP = 1n << 16n;
/** PKE, PKS, CET: what KVM hides, or does not know, with shadow paging. */
const NOT_SHADOWED = (1n << 22n) | (1n << 24n) | (1n << 23n);
const LEAF_D = 1 << 6;

interface Seen {
  /** `2000 (12)`, or `exception 14 error 7`. */
  readonly text: string;
}

export class AgainstBare {
  readonly counts = { accesses: 0, exits: 0, hits: 0, translated: 0, faults: 0 };
  private readonly below: Below;
  private readonly seed: number;

  constructor(below: Below, seed: number) {
    this.below = below;
    this.seed = seed;
  }

  /** Runs one random world; throws what differs. `tlb`: the processor may serve accesses from its TLB. */
  run(number: number, tlb: boolean): void {
    const random = new Random(this.seed, number);
    const { below } = this;
    const shadow = below === 'shadow';
    let world: World;
    let stores: [address: number, value: bigint, size: 4 | 8][];
    do {
      stores = [];
      world = new WorldBuilder(random, randomProcessor(random), (...store) => stores.push(store), true).build();
    } while (world.machine.secondStage !== undefined);
    const header = { ...headerOf(world.processor), independent: !tlb };
    const bare = new BareMachine(header);
    const freeLevel = random.pick([1, 2, 3] as const);
    const host = new HostMemory({ mode: 'free', profile: '6.1', hostMaxphyaddr: 52, freeLevel });

    const store = (address: number, value: bigint, size: 4 | 8): void => {
      const words = [address | 0, Math.floor(address / 2 ** 32), low(value), high(value), size] as const;
      bare.memory.store(...words);
      host.store(...words);
    };
    for (const each of stores) store(...each);
    const { machine } = world;
    if (shadow) {
      machine.cr0 |= CR0_WP;
      machine.cr4 &= ~NOT_SHADOWED;
    }
    if (world.paging === 'pae') {
      // NPT takes PDPTEs from memory.
      const table = Number(machine.cr3 & 0xffff_ffe0n);
      for (const [i, pdpte] of machine.pdptes.entries()) store(table + 8 * i, pdpte, 8);
    }
    const level = shadow ? levelOfShadow(world) : world.processor.maxphyaddr > 48 || random.chance(0.5) ? 5 : 4;
    const config: KvmConfig = defaultKvmConfig({
      vendor: below === 'npt' || (shadow && random.chance(0.5)) ? 'amd' : 'intel',
      tdp: !shadow,
      tdpLevel: level === 5 ? 5 : 4,
      hostMaxphyaddr: 52,
      eptAd: below === 'ept-ad',
    });
    const kvm = new Processor(header, config, host);
    for (const [register, value] of registersOf(machine)) {
      bare.setRegister(register, low(value), high(value));
      kvm.setRegister(register, low(value), high(value));
    }
    const tables = new HandTables(host.memory, level, below === 'ept' || below === 'ept-ad' ? below : 'x86');
    kvm.setRoot(tables.root);

    const addresses = Array.from({ length: 4 }, () => randomAddress(random, world));
    for (let i = 0; i < ACCESSES; i++) {
      // Entries change between accesses, where no TLB can hold what they were.
      const changed = !tlb && !shadow && stores.length > 0 ? random.pick(stores) : undefined;
      if (changed !== undefined)
        store(changed[0], changed[1] ^ (1n << BigInt(random.below(8 * changed[2]))), changed[2]);
      const address = random.chance(0.8)
        ? random.pick(addresses) ^ BigInt(random.below(0x1000))
        : randomAddress(random, world);
      const access = randomAccess(random, world, address);
      const place = `seed ${this.seed}, world ${number}, access ${i} (${below}, ${world.paging})`;
      const [lo, hi] = [low(address) | 0, high(address) | 0];
      bare.apply(i, accessOp(access, true), lo, hi, 0, 0, []);
      const expected = bareOutcome(bare, shadow);
      const op = accessOp(access, !tlb || random.chance(0.3));
      const seen = shadow
        ? this.shadowAccess(kvm, host, tables, bare, op, lo, hi, expected)
        : this.tdpAccess(random, kvm, host, tables, op, lo, hi);
      this.counts.accesses++;
      if (seen.text !== expected.text) {
        throw new Error(`${place}: ${JSON.stringify(access, hex)}: bare ${expected.text}, on KVM ${seen.text}`);
      }
      if (seen.text.startsWith('exception')) this.counts.faults++;
      else this.counts.translated++;
      if (changed !== undefined) store(...changed);
      else this.checkProbe(kvm, op, lo, hi, seen, shadow, place);
    }
    if (shadow) return;
    for (const [address] of stores) {
      const [hi, lo] = [Math.floor(address / 2 ** 32), address | 0];
      const at = (lo & 0xff8) >>> 2;
      const a = bare.memory.pageIndex(lo, hi) + at;
      const b = host.pageIndexOf(frameOf(lo, hi), 0) + at;
      const same = [0, 1].every((i) => bare.memory.words[a + i] === host.memory.words[b + i]);
      if (!same)
        throw new Error(`seed ${this.seed}, world ${number} (${below}): memory differs at ${address.toString(16)}`);
    }
  }

  private tdpAccess(
    random: Random,
    kvm: Processor,
    host: HostMemory,
    tables: HandTables,
    op: number,
    lo: number,
    hi: number,
  ): Seen {
    for (let exits = 0; exits < MAXIMUM_EXITS; exits++) {
      const outcome = kvm.translate(op, lo, hi);
      if (kvm.servedByTlb) this.counts.hits++;
      if (outcome !== Outcome.EXIT) return kvmOutcome(kvm, outcome, false);
      this.counts.exits++;
      if (kvm.misconfig) throw new Error('a misconfigured entry');
      const code = kvm.exitLo;
      const write = (code & 2) !== 0;
      const execute = this.below === 'npt' ? (code & 16) !== 0 : (code & 4) !== 0;
      if (this.below === 'npt' && kvm.exitHi !== 1 && kvm.exitHi !== 2) throw new Error(`EXITINFO1 ${kvm.exitHi}`);
      const gfn = frameOf(kvm.faultLo, kvm.faultHi);
      const slot = host.slotOf(gfn, 0)!;
      host.faultIn(slot, gfn, write);
      const hostLevel = Math.min(2, host.mappingLevel(slot, gfn));
      // What an earlier exit gave is asked for again, if need be.
      const rights = { write: write || random.chance(0.5), execute: execute || random.chance(0.7), user: true };
      tables.map(gfn, host.pfn, random.chance(0.5) ? 1 : hostLevel, rights);
    }
    return { text: 'exits without end' };
  }

  private shadowAccess(
    kvm: Processor,
    host: HostMemory,
    tables: HandTables,
    bare: BareMachine,
    op: number,
    lo: number,
    hi: number,
    expected: Seen,
  ): Seen {
    for (let exits = 0; exits < 2; exits++) {
      const outcome = kvm.translate(op, lo, hi);
      if (kvm.servedByTlb) this.counts.hits++;
      if (outcome !== Outcome.EXIT) return kvmOutcome(kvm, outcome, true);
      this.counts.exits++;
      if (kvm.faultLo !== lo || kvm.faultHi !== hi) throw new Error('CR2 is not the address');
      // The hypervisor finds the guest's tables at fault, and hands the guest what they say.
      if (expected.text.startsWith('exception')) return expected;
      const { cpuWalk } = bare;
      const gfn = frameOf(cpuWalk.lo, cpuWalk.hi);
      host.faultIn(host.slotOf(gfn, 0)!, gfn, true);
      const unpaged = cpuWalk.rootLevel === 0;
      const { rights } = cpuWalk;
      const dirty = unpaged || (cpuWalk.leafLo & LEAF_D) !== 0 || (accessBits(op) & WRITE) !== 0;
      tables.map(pageOf(lo, hi, kvm), host.pfn, 1, {
        write: (rights & ACC_WRITE) !== 0 && dirty,
        execute: (rights & ACC_EXEC) !== 0,
        user: (rights & ACC_USER) !== 0,
      });
    }
    return { text: 'an exit after what it asked for was mapped' };
  }

  /** A probe agrees with the access that has just been made, and changes nothing. */
  private checkProbe(
    kvm: Processor,
    op: number,
    lo: number,
    hi: number,
    seen: Seen,
    shadow: boolean,
    place: string,
  ): void {
    const { tlb } = kvm.hardware;
    const tag = JSON.stringify([tlb.lo, tlb.hi, tlb.meta]);
    const outcome = kvm.probe(op, lo, hi);
    const same =
      outcome === Outcome.EXIT
        ? shadow && seen.text.startsWith('exception 14')
        : kvmOutcome(kvm, outcome, shadow).text === seen.text;
    if (!same) throw new Error(`${place}: probed ${kvmOutcome(kvm, outcome, shadow).text} after ${seen.text}`);
    if (JSON.stringify([tlb.lo, tlb.hi, tlb.meta]) !== tag) throw new Error(`${place}: the probe used the TLB`);
  }
}

function levelOfShadow(world: World): 3 | 4 | 5 {
  return world.paging === '4-level' ? 4 : world.paging === '5-level' ? 5 : 3;
}

/** Page number of a linear address, as far as its tables translate it. */
function pageOf(lo: number, hi: number, kvm: Processor): number {
  const long = (kvm.registers[2 * Reg.EFER]! & (1 << 10)) !== 0;
  return (long ? (hi & 0x1ff_ffff) * 2 ** 20 : 0) + (lo >>> 12);
}

function kvmOutcome(kvm: Processor, outcome: number, shadow: boolean): Seen {
  switch (outcome) {
    case Outcome.OK:
      return { text: `${address(kvm.gpaLo, kvm.gpaHi)}${shadow ? '' : ` (${kvm.pageShift})`}` };
    case Outcome.GUEST_FAULT:
      return { text: `exception ${kvm.vector} error ${kvm.errorCode.toString(16)}` };
    case Outcome.NOT_MODELLED:
      return { text: `not modelled ${kvm.unmodelled}` };
    default:
      return { text: `exit ${kvm.exitLo.toString(16)}` };
  }
}

function bareOutcome(bare: BareMachine, shadow: boolean): Seen {
  const { log } = bare;
  const at = (log.count - 1) * ROW;
  const op = log.rows[at + ROW_OP]!;
  switch (op & 0x1f) {
    case Obs.TRANSLATED: {
      const shift = (op >>> OBS_PAGE_SHIFT_SHIFT) & OBS_PAGE_SHIFT_MASK;
      return {
        text: `${address(log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!)}${shadow ? '' : ` (${shift})`}`,
      };
    }
    case Obs.EXCEPTION: {
      const vector = (op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
      return { text: `exception ${vector} error ${log.rows[at + ROW_VALUE_LO]!.toString(16)}` };
    }
    default:
      return { text: `row ${op & 0x1f}` };
  }
}

function address(lo: number, hi: number): string {
  return ((hi >>> 0) * 2 ** 32 + (lo >>> 0)).toString(16);
}

function low(value: bigint): number {
  return Number(value & 0xffff_ffffn);
}

function high(value: bigint): number {
  return Number((value >> 32n) & 0xffff_ffffn);
}

function hex(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `0x${value.toString(16)}` : value;
}
