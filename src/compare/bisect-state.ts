/**
 * Where the states of two machines differ: everything that either can reach, compared place by place, TLBs and roots and
 * SPTEs and what KVM remembers of them. Machines need not provide for it. Slow: for a few states, not for every step.
 */

import { hexText } from '../bits/word64.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import type { Machine } from '../machine/machine.ts';
import { nameOf } from '../mmu/invariants-look.ts';
import { ENTRIES, type ShadowPage } from '../mmu/shadow-page.ts';

/** Members that are no state: what the last step logged, what a machine was made from, scratch of its last access. */
const NO_STATE: ReadonlySet<string> = new Set([
  'log',
  'trace',
  'header',
  'config',
  'mutants',
  'mutant',
  'bugs',
  'wiring',
  'options',
  'tableUses',
  'now',
  'epoch',
  'exit',
  'history',
  'scratchWalk',
  'foundClass',
  'foundIndex',
  'faultLo',
  'faultHi',
  'exitLo',
  'exitHi',
]);

/** The same by more than a name: what a TLB found last, where the processor's last access went. */
const NO_PLACE = /(?:tlb|processor)\.(?:lo|hi|hpaLo|hpaHi|gpaLo|gpaHi|meantLo|meantHi|meta|gfn|pageShift)$/;

/** Differences that are looked for in one state; there may be more. */
const MAXIMUM_PLACES = 200;

export interface StatePlace {
  /** Members from the machine on: `cpu.vcpu.rootMmu.root.pgd`. */
  readonly path: string;
  /** What it holds; one word for anything but numbers and truth values. */
  readonly a: string;
  readonly b: string;
}

type Members = Readonly<Record<string, unknown>>;

function valueText(value: unknown): string {
  if (typeof value === 'number')
    return Number.isInteger(value) && value >= 0 ? `0x${value.toString(16)}` : String(value);
  if (typeof value === 'object' && value !== null) return 'something';
  return value === undefined || value === null ? 'nothing' : String(value);
}

class StateComparison {
  readonly places: StatePlace[] = [];
  private readonly met = new Map<object, object>();
  /** Breadth first: what is near the machine gives its name to what can be reached in several ways. */
  private readonly queue: { readonly a: object; readonly b: object; readonly path: string }[] = [];

  run(a: object, b: object): void {
    this.compare(a, b, '');
    for (let next = 0; next < this.queue.length && this.places.length < MAXIMUM_PLACES; next++) {
      const { path, ...both } = this.queue[next]!;
      this.inside(both.a, both.b, path);
    }
  }

  private compare(a: unknown, b: unknown, path: string): void {
    if (Object.is(a, b) || (typeof a === 'function' && typeof b === 'function')) return;
    if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
      this.note(path, valueText(a), valueText(b));
      return;
    }
    const met = this.met.get(a);
    // Two places that are one thing on this side, and two on that.
    if (met !== undefined && met !== b) this.note(path, 'one of them', 'another');
    if (met !== undefined) return;
    this.met.set(a, b);
    this.queue.push({ a, b, path });
  }

  private inside(a: object, b: object, path: string): void {
    if (ArrayBuffer.isView(a) && ArrayBuffer.isView(b)) this.words(a as Uint32Array, b as Uint32Array, path);
    else if (a instanceof Map && b instanceof Map) this.maps(a, b, path);
    else if (a instanceof Set && b instanceof Set) this.sets(a, b, path);
    else if (Array.isArray(a) && Array.isArray(b)) this.lists(a, b, path);
    else this.members(a as Members, b as Members, path);
  }

  private note(path: string, a: string, b: string): void {
    if (!NO_PLACE.test(path)) this.places.push({ path, a, b });
  }

  private words(a: Uint32Array, b: Uint32Array, path: string): void {
    const length = Math.min(a.length, b.length);
    for (let at = 0; at < length && this.places.length < MAXIMUM_PLACES; at++) {
      if (a[at] !== b[at]) this.note(`${path}.${at}`, valueText(a[at]! >>> 0), valueText(b[at]! >>> 0));
    }
  }

  private maps(a: ReadonlyMap<unknown, unknown>, b: ReadonlyMap<unknown, unknown>, path: string): void {
    for (const key of new Set([...a.keys(), ...b.keys()])) {
      // Keys that are objects stand for themselves: there is no telling which goes with which.
      if (typeof key !== 'object') this.compare(a.get(key), b.get(key), `${path}.${String(key)}`);
    }
    if (a.size !== b.size) this.note(`${path}.size`, valueText(a.size), valueText(b.size));
  }

  private sets(a: ReadonlySet<unknown>, b: ReadonlySet<unknown>, path: string): void {
    for (const key of new Set([...a, ...b])) {
      if (typeof key !== 'object' && a.has(key) !== b.has(key)) {
        this.note(`${path}.${String(key)}`, String(a.has(key)), String(b.has(key)));
      }
    }
    if (a.size !== b.size) this.note(`${path}.size`, valueText(a.size), valueText(b.size));
  }

  private lists(a: readonly unknown[], b: readonly unknown[], path: string): void {
    if (a.length !== b.length) this.note(`${path}.length`, valueText(a.length), valueText(b.length));
    for (let at = 0; at < Math.min(a.length, b.length); at++) this.compare(a[at], b[at], `${path}.${at}`);
  }

  private members(a: Members, b: Members, path: string): void {
    for (const name of Object.keys(a)) {
      if (NO_STATE.has(name) || !(name in b)) continue;
      this.compare(a[name], b[name], path === '' ? name : `${path}.${name}`);
    }
  }
}

/** What says most comes first: SPTEs, tables, what KVM knows of the vCPU, the processor. */
const RANKS: readonly RegExp[] = [/memory\.words\.\d+$/, /^pages\.byPage\.\d+\./, /^cpu\.vcpu\./, /^cpu\./];

function rankOf({ path }: StatePlace): number {
  const rank = RANKS.findIndex((each) => each.test(path));
  return rank < 0 ? RANKS.length : rank;
}

/** Where the states differ, in an order that is the same every time. */
export function stateDifferences(a: Machine, b: Machine): StatePlace[] {
  const comparison = new StateComparison();
  comparison.run(a, b);
  return comparison.places.sort((x, y) => rankOf(x) - rankOf(y));
}

/** A half of a word of memory, by its number. */
const MEMORY_WORD = /(?:^|\.)memory\.words\.(\d+)$/;

/** One place in words: which SPTE of which table, or the member by its name, and what either machine has there. */
export function placeSentence(
  machines: readonly [a: Machine, b: Machine],
  labels: readonly [a: string, b: string],
  { path, a, b }: StatePlace,
): string {
  const half = MEMORY_WORD.exec(path)?.[1];
  const [first, second] = machines;
  if (half === undefined || !(first instanceof KvmMachine) || !(second instanceof KvmMachine)) {
    return `${memberName(first, path)}: ${a} on ${labels[0]}, ${b} on ${labels[1]}`;
  }
  const sptep = Number(half) >>> 1;
  const words = [first, second].map(({ host }) => {
    const { words } = host.memory;
    return hexText(words[2 * sptep]! >>> 0, words[2 * sptep + 1]! >>> 0);
  });
  return `${wordName(first, sptep) ?? wordName(second, sptep) ?? 'a word of guest memory'}: ${words[0]} on ${labels[0]}, ${words[1]} on ${labels[1]}`;
}

/** The members in words as far as they are known: of tables which one it is. */
function memberName(machine: Machine, path: string): string {
  const [, page, member] = /^pages\.byPage\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (page === undefined || !(machine instanceof KvmMachine)) return path.replace(/^cpu\./, '');
  const table = tableOf(machine, Number(page) * ENTRIES);
  return table === undefined ? path : `${member} of ${nameOf(table)}`;
}

/** Which SPTE the word is, or undefined. */
function wordName(machine: KvmMachine, sptep: number): string | undefined {
  const table = tableOf(machine, sptep);
  return table && `SPTE ${sptep - table.sptep(0)} of ${nameOf(table)}`;
}

function tableOf({ pages }: KvmMachine, sptep: number): ShadowPage | undefined {
  try {
    return pages.pageOf(sptep);
  } catch {
    return undefined;
  }
}
