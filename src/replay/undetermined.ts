/**
 * Partial traces: what differs and can be due to state that the trace does not tell is undetermined; what no state
 * explains diverges. Every field and every event depends on states by name; a difference is excused if one of them is
 * among the header's unknown ones. Without an excuse remain: a walk that goes on behind an entry that is not present,
 * an error code of another access, an SPTE with other bits than rights and tracking, frames and addresses that the
 * stimulus gives; guest entries; and with the TDP MMU whatever is about an entry that is known (`known-entries.ts`). Under
 * shadow paging the guest's memory excuses most: a partial trace says little against KVM's shadow MMU.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { isHostEvent, KvmEvent } from '../formats/kvm-event.ts';
import { OBS_FOUR_BYTES } from '../formats/observation.ts';
import { GuestMode, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import { differing, differingParts } from './event-cause.ts';
import { usesNestedTdp } from './hidden-nesting.ts';
import type { KnownEntries } from './known-entries.ts';
import type { Row, SidePair } from './result.ts';
import { rowsEvent } from './units.ts';

/** State that a trace may leave open, by the names that headers use. */
export type UnknownState = 'memory' | 'memslots' | 'registers' | 'host pages' | 'stimuli' | 'tables';

/** Bits of SPTEs that follow rights, the host's or the guest's tracking; all others are the format's. */
const SPTE_BY_HOST = new Set(['w', 'd', 'host-writable', 'mmu-writable']);
const SPTE_BY_GUEST = new Set(['u', 'x', 'xu', 'nx', 'a', 'w', 'd', 'mmu-writable']);

const PFEC_P = 1;
const PFEC_W = 2;
const PFEC_RSVD = 8;
const LARGE = 0x80;
/** Bits 5:3 of an EPT leaf; accessed and dirty are bits 8 and 9 there (SDM vol. 3C 29.3.3). */
const EPT_MEMORY_TYPE = 0x38;
const EPT_WRITE_BACK = 0x30;
const EPT_AD_SHIFT = 3;
/** Exit reason: page-modification log full (SDM vol. 3D appendix C). */
const EXIT_PML_FULL = 62;
const ACCESSED = 0x20;
const DIRTY = 0x40;

interface Walk {
  /** Low half of the last entry that both sides read alike, undefined if there was none. */
  readonly entry: number | undefined;
  readonly level: number;
  /** Both sides' walker_error differs, or one lacks it. */
  readonly outcomeDiffers: boolean;
  /** It ended since L1's page-modification log was full, whose index is L1's to set. */
  readonly logFull: boolean;
}

function fieldExcuse(pair: SidePair, config: KvmConfig, kind: number): readonly UnknownState[] | undefined {
  const event = rowsEvent(pair.recorded);
  const states = new Set<UnknownState>();
  for (const field of differing(pair)) {
    const isFrame = pair.wrongFrame?.field === field.name;
    const found = isFrame ? frameExcuse(pair) : oneField(event, field.name, field.kind, pair, config, kind);
    if (found === undefined) return undefined;
    for (const state of found) states.add(state);
  }
  return [...states];
}

function differsInAdOnly({ recorded, replayed }: SidePair): boolean {
  const [a, b] = [recorded[0]!, replayed[0]!];
  return ((a.valueLo ^ b.valueLo) & ~(ACCESSED | DIRTY)) === 0 && a.valueHi === b.valueHi;
}

function frameExcuse(pair: SidePair): readonly UnknownState[] {
  return pair.wrongFrame!.isTable ? ['tables'] : ['host pages'];
}

function oneField(
  event: number,
  name: string,
  fieldKind: string,
  pair: SidePair,
  config: KvmConfig,
  step: number,
): readonly UnknownState[] | undefined {
  const { recorded, replayed } = pair;
  switch (fieldKind) {
    case 'role':
      return ['registers'];
    case 'pfn':
      return ['memslots', 'host pages'];
    case 'sptep':
      return ['tables'];
    case 'spte': {
      if (name === 'old_spte' || event === KvmEvent.FAST_PAGE_FAULT) return ['tables'];
      if (pair.fields.includes('old_spte')) return ['tables'];
      const field = differing(pair).find((each) => each.name === name)!;
      const parts = differingParts(field, pair, config).map((part) => part.name);
      // Another kind of entry altogether.
      if (parts.length === 0) return event === KvmEvent.SET_SPTE ? undefined : ['tables'];
      const allowed = config.tdp ? SPTE_BY_HOST : SPTE_BY_GUEST;
      if (parts.every((part) => allowed.has(part)))
        return config.tdp ? ['host pages', 'memslots'] : ['memory', 'tables'];
      return parts.every((part) => SPTE_BY_HOST.has(part) || allowed.has(part))
        ? ['host pages', 'memslots']
        : undefined;
    }
    default:
  }
  switch (event) {
    case KvmEvent.PAGING_ELEMENT:
      // Whatever else an entry was found to hold has been stated ahead of the walk.
      return name === 'pte' && differsInAdOnly(pair) ? ['memory'] : undefined;
    case KvmEvent.PAGETABLE_WALK:
      return name === 'pferr' && step === StepKind.FAULT_EXIT ? ['registers'] : undefined;
    case KvmEvent.SET_ACCESSED_BIT:
    case KvmEvent.SET_DIRTY_BIT:
      // The root's page is unknown, never the place in it.
      return ((recorded[0]!.addressLo ^ replayed[0]!.addressLo) & 0xfff) === 0 ? ['registers'] : undefined;
    case KvmEvent.WALKER_ERROR:
    case KvmEvent.INJ_EXCEPTION:
      return ((recorded[0]!.valueLo ^ replayed[0]!.valueLo) & PFEC_W) === 0 && name !== 'exception'
        ? ['registers']
        : undefined;
    case KvmEvent.PAGE_FAULT:
      return name === 'error_code' ? ['tables', 'registers'] : undefined;
    case KvmEvent.NESTED_VMEXIT:
      return name === 'info1' ? ['tables', 'registers'] : undefined;
    case KvmEvent.ZAP_ALL_FAST:
      return name === 'mmu_used_pages' ? ['tables'] : ['stimuli'];
    default:
  }
  switch (name) {
    case 'gfn':
      return config.tdp ? ['tables'] : ['memory', 'registers', 'tables'];
    case 'level':
      return ['host pages', 'tables'];
    case 'root_count':
    case 'unsync':
    case 'created':
    case 'mmu_valid_gen':
      return ['tables', 'stimuli'];
    case 'gen':
    case 'kvm_gen':
    case 'spte_gen':
      return ['memslots'];
    case 'access':
      return ['registers', 'memory'];
    case 'spurious':
    case 'fixed':
      return ['tables'];
    case 'gva_gpa':
    case 'gpa_match':
    case 'type':
      return ['memslots', 'tables'];
    default:
      return undefined;
  }
}

/** An event that one side lacks. */
function eventExcuse(pair: SidePair, config: KvmConfig, kind: number, walk: Walk): readonly UnknownState[] | undefined {
  const event = rowsEvent(pair.recorded.length > 0 ? pair.recorded : pair.replayed);
  switch (event) {
    case KvmEvent.PAGETABLE_WALK:
      return ['stimuli', 'tables'];
    case KvmEvent.PAGING_ELEMENT:
      return ['memslots', 'registers'];
    case KvmEvent.SET_ACCESSED_BIT:
    case KvmEvent.SET_DIRTY_BIT:
      return walk.outcomeDiffers ? ['registers'] : undefined;
    case KvmEvent.WALKER_ERROR:
      return walkExcuse(pair, walk);
    case KvmEvent.INJ_EXCEPTION:
      return walk.outcomeDiffers ? ['registers'] : ['stimuli'];
    case KvmEvent.MMIO:
    case KvmEvent.MATCH_MMIO:
      return ['memslots', 'tables'];
    case KvmEvent.PAGE_FAULT:
    case KvmEvent.NESTED_VMENTER:
    case KvmEvent.NESTED_VMEXIT:
    case KvmEvent.NESTED_INTERCEPTS:
    case KvmEvent.INVLPGA:
      return undefined;
    default:
  }
  if (event < 0) return undefined;
  if (isHostEvent(event)) return ['host pages'];
  if (kind === StepKind.RARE || kind === StepKind.VM_ENTRY) return ['stimuli', 'tables'];
  if (kind === StepKind.FAULT_EXIT) return config.tdp ? ['tables', 'memslots', 'host pages'] : ['memory', 'tables'];
  return config.tdp ? ['tables'] : ['memory', 'stimuli', 'tables'];
}

/** Whether a walk may end in an error on one side only: not if the entries that both sides read decide it. */
function walkExcuse(pair: SidePair, { entry, level, logFull }: Walk): readonly UnknownState[] | undefined {
  if (logFull) return ['registers'];
  const isPresent = entry === undefined || (entry & PFEC_P) !== 0;
  if (!isPresent) return undefined;
  const { valueLo: error } = (pair.recorded[0] ?? pair.replayed[0])!;
  if ((error & PFEC_P) !== 0) return (error & PFEC_RSVD) !== 0 ? ['registers', 'memory'] : ['registers'];
  // Not present, and all entries are: the next table, or the page behind a leaf under TDP, is in no slot.
  const leaf = level === 1 || (entry !== undefined && (entry & LARGE) !== 0);
  return leaf && pair.recorded.length > 0 ? undefined : ['memslots'];
}

function walkOf(pairs: readonly SidePair[], end: number): Walk {
  let entry: number | undefined;
  let level = 0;
  for (const { state, recorded } of pairs.slice(0, end)) {
    if (rowsEvent(recorded) === KvmEvent.PAGETABLE_WALK) entry = undefined;
    if (rowsEvent(recorded) !== KvmEvent.PAGING_ELEMENT || state !== 'equal') continue;
    entry = recorded[0]!.valueLo;
    level = (recorded[0]!.op >>> 7) & 7;
  }
  const outcomeDiffers = pairs.some(
    ({ state, recorded, replayed }) =>
      state !== 'equal' &&
      [recorded, replayed].some(
        (rows) => rowsEvent(rows) === KvmEvent.WALKER_ERROR || rowsEvent(rows) === KvmEvent.PAGING_ELEMENT,
      ),
  );
  const logFull = pairs.some(
    ({ recorded }) => rowsEvent(recorded) === KvmEvent.NESTED_VMEXIT_INJECT && recorded[1]?.addressLo === EXIT_PML_FULL,
  );
  return { entry, level, outcomeDiffers, logFull };
}

/**
 * The state that a step which differs can be due to; undefined: there is none, it diverges. The first difference decides:
 * what stands behind it is its consequence.
 */
export function undeterminedBy(
  stepOp: number,
  pairs: readonly SidePair[],
  config: KvmConfig,
  unknown: ReadonlySet<string>,
  known: KnownEntries | null,
): UnknownState | undefined {
  const kind = stepOp & STEP_KIND_MASK;
  const at = pairs.findIndex(({ state }) => state !== 'equal' && state !== 'host');
  const pair = pairs[at];
  if (pair === undefined) return undefined;
  const both = pair.recorded.length > 0 && rowsEvent(pair.recorded) === rowsEvent(pair.replayed);
  const states = both ? fieldExcuse(pair, config, kind) : bothEvents(pair, config, kind, walkOf(pairs, at));
  const isKnown = known?.has(pair) === true;
  return states?.find((state) => unknown.has(state) && !(isKnown && isSettled(state, unknown)));
}

/** Whether a state is no excuse about an entry that is known. Without the notifier's events a page may change unseen. */
function isSettled(state: UnknownState, unknown: ReadonlySet<string>): boolean {
  return state === 'tables' || state === 'memslots' || (state === 'host pages' && !unknown.has('exits'));
}

/**
 * After an undetermined step the guest's tables hold what the recording read and set there. `log`: all that the machine
 * did in the step, also what the recording would not tell.
 */
export function followRecording(machine: Machine, pairs: readonly SidePair[], log: readonly Row[]): void {
  const recorded = pairs.map((pair) => pair.recorded).filter((rows) => bitOf(rowsEvent(rows)) !== 0);
  for (const set of log) {
    if (bitOf(rowsEvent([set])) === 0) continue;
    const isSame = ([row]: readonly Row[]): boolean =>
      row!.op === set.op && row!.addressLo === set.addressLo && row!.addressHi === set.addressHi;
    if (recorded.some(isSame)) continue;
    // What was read there is what is there.
    const read = log.findLast(
      (row) =>
        rowsEvent([row]) === KvmEvent.PAGING_ELEMENT &&
        row.addressLo === set.addressLo &&
        row.addressHi === set.addressHi,
    );
    if (read !== undefined) machine.adoptEntry(OBS_FOUR_BYTES, read.addressLo, read.addressHi, read.valueLo, 0);
  }
  for (const rows of recorded) {
    const { op, addressLo, addressHi } = rows[0]!;
    if (log.some((row) => row.op === op && row.addressLo === addressLo && row.addressHi === addressHi)) continue;
    const [lo] = machine.readEntry(OBS_FOUR_BYTES, addressLo, addressHi);
    const bits = bitsIn(machine, lo, bitOf(rowsEvent(rows)));
    machine.adoptEntry(OBS_FOUR_BYTES, addressLo, addressHi, lo | bits, 0);
  }
  for (const pair of pairs) {
    const [told, seen] = [pair.recorded[0], pair.replayed[0]];
    const elements = [pair.recorded, pair.replayed].every((rows) => rowsEvent(rows) === KvmEvent.PAGING_ELEMENT);
    if (pair.state === 'equal' || !elements || told === undefined || seen === undefined) continue;
    // Of an entry of four bytes the upper half is another entry's.
    if (told.valueLo !== seen.valueLo)
      machine.adoptEntry(OBS_FOUR_BYTES, seen.addressLo, seen.addressHi, told.valueLo, 0);
    if (told.valueHi !== seen.valueHi)
      machine.adoptEntry(0, seen.addressLo, seen.addressHi, told.valueLo, told.valueHi);
  }
}

/** After an undetermined step other than an exit to L1: KVM itself has given L1 an exit if the recording says so. */
export function followReflection(machine: Machine, stepOp: number, pairs: readonly SidePair[]): void {
  if ((stepOp & STEP_KIND_MASK) === StepKind.NESTED_EXIT) return;
  const reflected = pairs.some(({ recorded }) => rowsEvent(recorded) === KvmEvent.NESTED_VMEXIT_INJECT);
  machine.kvm?.takeReflected(reflected);
}

/** The bits of x86 tables as they are in an entry. Of L1's EPT only leaves are known, by their memory type. */
function bitsIn({ registers }: Machine, lo: number, bits: number): number {
  const ept = usesNestedTdp(registers) && registers[2 * Reg.GUEST_MODE] === GuestMode.VMX;
  if (!ept) return bits;
  return (lo & EPT_MEMORY_TYPE) === EPT_WRITE_BACK ? bits << EPT_AD_SHIFT : 0;
}

/** Bit that an event sets in an entry; 0 for others. */
function bitOf(event: number): number {
  if (event === KvmEvent.SET_ACCESSED_BIT) return ACCESSED;
  return event === KvmEvent.SET_DIRTY_BIT ? ACCESSED | DIRTY : 0;
}

/** Two different events in one place, or one that stands alone. */
function bothEvents(pair: SidePair, config: KvmConfig, kind: number, walk: Walk): readonly UnknownState[] | undefined {
  if (pair.recorded.length === 0 || pair.replayed.length === 0) return eventExcuse(pair, config, kind, walk);
  const one = eventExcuse({ ...pair, replayed: [] }, config, kind, walk);
  const other = eventExcuse({ ...pair, recorded: [] }, config, kind, walk);
  return one === undefined || other === undefined ? undefined : [...one, ...other];
}
