/**
 * From the records of a walk log to steps. README.md in this folder says what becomes of each record and what is left
 * out on purpose.
 *
 * Memory: a walk's record is all that is known of the tables, so every entry that is news is stated as a store of
 * knowledge before the access that read it, and the machine then walks memory, not the record.
 */

import { Problem } from '../../bits/problem.ts';
import { parseHex64, toBigInt, type Word64, ZERO } from '../../bits/word64.ts';
import { OBS_KIND_MASK, OBS_REGISTER_SHIFT, Obs } from '../../formats/observation.ts';
import { REGISTER_COUNT, Reg } from '../../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_SHIFT,
  ACCESS_EXPECTS_ADDRESS,
  ACCESS_LENGTH_MASK,
  ACCESS_LENGTH_SHIFT,
  ACCESS_SHADOW_STACK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_SHIFT,
  PROVENANCE_SHIFT,
  Provenance,
  REGISTER_WRITE_TASK_SWITCH,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import { StepBuilder } from '../../trace/columns.ts';
import { KnownMemory } from '../known-memory.ts';
import type { StepSink } from '../sink.ts';
import { ACCESS_LETTERS, parseResult, parseToken, type Row, TokenError } from './tokens.ts';

const STEPS_PER_CHUNK = 16_384;

/** Fields of `S` records. */
const STATE_FIELDS: ReadonlyMap<string, number> = new Map<string, number>([
  ['cr0', Reg.CR0],
  ['cr3', Reg.CR3],
  ['cr4', Reg.CR4],
  ['efer', Reg.EFER],
  ['pkru', Reg.PKRU],
  ['pkrs', Reg.PKRS],
  ['pat', Reg.PAT],
  ['pdp0', Reg.PDPTE0],
  ['pdp1', Reg.PDPTE1],
  ['pdp2', Reg.PDPTE2],
  ['pdp3', Reg.PDPTE3],
  ['mode', Reg.GUEST_MODE],
  ['eptp', Reg.EPTP],
  ['vpid', Reg.VPID],
  ['c2', Reg.SECONDARY_CONTROLS],
  ['np', Reg.NESTED_CONTROL],
  ['ncr3', Reg.NCR3],
  ['asid', Reg.ASID],
  ['hcr0', Reg.HOST_CR0],
  ['hcr4', Reg.HOST_CR4],
  ['hefer', Reg.HOST_EFER],
  ['smm', Reg.SMM],
]);

/** Records that are read and left out on purpose, and why. */
export const OMITTED: ReadonlyMap<string, string> = new Map([
  ['F', 'F records: what the emulator flushed, more than the architecture asks for'],
  ['E', 'E records: exceptions other than #PF'],
  ['Z', 'Z records: totals'],
]);

/** What a write of the register may change by itself; an `S` before its record that names these is an outcome. */
const PDPTES = [Reg.PDPTE0, Reg.PDPTE1, Reg.PDPTE2, Reg.PDPTE3];
const CHANGED_BY: Readonly<Record<number, readonly number[]>> = {
  [Reg.CR0]: [Reg.CR0, ...PDPTES],
  [Reg.CR3]: [Reg.CR3, ...PDPTES],
  [Reg.CR4]: [Reg.CR4, ...PDPTES],
};

export class WalklogImport {
  private readonly sink: StepSink;
  private readonly file: string;
  private readonly steps = new StepBuilder();
  private readonly known = new KnownMemory();
  private readonly registers = new Uint32Array(2 * REGISTER_COUNT);
  private chunkRegisters = new Uint32Array(2 * REGISTER_COUNT);
  private line = 0;
  /** State changes read but not yet placed: they belong to the record that follows. */
  private pending = new Map<number, { readonly value: Word64; readonly line: number }>();
  /** A VM entry waiting for the state that the next record may give. */
  private entry: { readonly op: number; readonly line: number } | undefined;
  /** The last step loaded PDPTE registers: a state record right after it tells the outcome. */
  private afterPdpteLoad = false;

  constructor(sink: StepSink, file: string) {
    this.sink = sink;
    this.file = file;
  }

  /** One line of the log behind the header line; `line` counts from 1. */
  record(text: string, line: number): void {
    this.line = line;
    const tokens = text.split(' ');
    try {
      this.dispatch(tokens);
    } catch (error) {
      if (error instanceof TokenError) throw new Problem('E_IMPORT', error.message, { file: this.file, line });
      throw error;
    }
    if (this.steps.stepCount >= STEPS_PER_CHUNK) this.flush();
  }

  /** Ends the import: what is pending becomes steps. */
  finish(): void {
    this.placeEntry();
    this.setPending();
    this.flush();
  }

  private dispatch(tokens: readonly string[]): void {
    const kind = tokens[0];
    if (kind === 'S') {
      this.state(tokens);
      return;
    }
    this.placeEntry();
    this.afterPdpteLoad = false;
    switch (kind) {
      case 'W':
        this.walk(tokens);
        break;
      case 'A':
        this.access(tokens);
        break;
      case 'X':
        this.gpaAccess(tokens);
        break;
      case 'P':
        this.pdpteLoad(tokens);
        break;
      case 'I':
        this.invalidation(tokens);
        break;
      case 'V':
        this.transition(tokens);
        break;
      default:
        if (kind === undefined || !OMITTED.has(kind)) throw new TokenError(`unknown record "${kind ?? ''}"`);
    }
  }

  private flush(): void {
    if (this.steps.stepCount === 0) return;
    this.sink.steps(this.steps.take(this.chunkRegisters));
    this.chunkRegisters = this.registers.slice();
  }

  private state(tokens: readonly string[]): void {
    for (const token of tokens.slice(1)) {
      if (token === '*') continue;
      const [name = '', text = ''] = token.split('=');
      const register = STATE_FIELDS.get(name);
      const value = parseHex64(text);
      if (register === undefined || value === undefined) throw new TokenError(`unknown state "${token}"`);
      if (this.afterPdpteLoad && PDPTES.includes(register as never)) this.expectRegister(register, value);
      else this.pending.set(register, { value, line: this.line });
    }
    if (this.entry === undefined) return;
    this.setPending();
    this.placeEntry();
  }

  /** The last step is expected to leave the register so. */
  private expectRegister(register: number, value: Word64): void {
    this.steps.observe(Obs.REGISTER | (register << OBS_REGISTER_SHIFT), 0, 0, value.lo, value.hi);
    this.hold(register, value);
  }

  private hold(register: number, value: Word64): void {
    this.registers[2 * register] = value.lo;
    this.registers[2 * register + 1] = value.hi;
  }

  /** States the pending registers, but for those in `except`. */
  private setPending(except: readonly number[] = []): void {
    for (const [register, { value, line }] of this.pending) {
      if (except.includes(register)) continue;
      this.steps.step(StepKind.REGISTER_SET | (register << STEP_REGISTER_SHIFT), 0, 0, value.lo, value.hi, line);
      this.hold(register, value);
      this.pending.delete(register);
    }
  }

  private step(op: number, address: Word64, operand: Word64): void {
    this.steps.step(op, address.lo, address.hi, operand.lo, operand.hi, this.line);
  }

  private observe(row: Row): void {
    this.steps.observe(row.op, row.address.lo, row.address.hi, row.value.lo, row.value.hi);
  }

  private hex(text: string | undefined, what: string): Word64 {
    const word = text === undefined ? undefined : parseHex64(text);
    if (word === undefined) throw new TokenError(`${what} "${text ?? ''}" is not a hexadecimal number`);
    return word;
  }

  /** States every entry that the rows read and memory was not known to hold. */
  private learn(rows: readonly Row[]): void {
    for (const row of rows) {
      if (row.size === 0) continue;
      const { address, size } = row;
      const place = toBigInt(address.lo, address.hi);
      const value = toBigInt(row.value.lo, row.value.hi);
      if ((row.op & OBS_KIND_MASK) === Obs.ELEMENT) {
        if (this.known.read(place, size) === value) continue;
        const provenance = Provenance.INFERRED << PROVENANCE_SHIFT;
        this.step(StepKind.STORE | provenance | STORE_KNOWLEDGE | (size << STORE_SIZE_SHIFT), address, row.value);
      }
      this.known.write(place, size, value);
    }
  }

  /** `W <acc><U|S> <cpl><a|-> <la> <len> <token>… <result>` */
  private walk(tokens: readonly string[]): void {
    this.setPending();
    const [, access = '', mode = '', la, len] = tokens;
    const { rows, result } = splitRows(tokens.slice(5));
    this.learn(rows);
    const letter = access[0] ?? '';
    if (ACCESS_LETTERS.has(letter.toLowerCase()) && !/^.[US]$/.test(access)) {
      throw new TokenError(`unknown access "${access}"`);
    }
    const user = access[1] === 'U' ? ACCESS_USER : 0;
    this.step(accessOp(letter, mode, this.hex(len, 'length').lo) | user | ACCESS_WALKED, this.hex(la, 'address'), ZERO);
    for (const row of rows) this.observe(row);
    for (const row of parseResult(result)) this.observe(row);
  }

  /** `A <acc> <cpl><a|-> <la> <len> =<pa>` */
  private access(tokens: readonly string[]): void {
    this.setPending();
    const [, access = '', mode = '', la, len, pa = ''] = tokens;
    if (!pa.startsWith('=')) throw new TokenError(`"${pa}" is no physical address`);
    const user = mode[0] === '3' ? ACCESS_USER : 0;
    const op = accessOp(access, mode, this.hex(len, 'length').lo) | user | ACCESS_EXPECTS_ADDRESS;
    this.step(op, this.hex(la, 'address'), this.hex(pa.slice(1), 'physical address'));
  }

  /** `X <acc> <cpl> <la|-> <tokens> =<pa>` */
  private gpaAccess(tokens: readonly string[]): void {
    this.setPending();
    const [, access = ''] = tokens;
    const { rows, result } = splitRows(tokens.slice(4));
    const first = rows[0];
    if (first === undefined) throw new TokenError('the record names no guest-physical address');
    this.learn(rows);
    const type = ACCESS_LETTERS.get(access);
    if (type === undefined) throw new TokenError(`unknown access "${access}"`);
    this.step(StepKind.GPA_ACCESS | (type << ACCESS_TYPE_SHIFT), first.address, ZERO);
    for (const row of rows) this.observe(row);
    for (const row of parseResult(result)) this.observe(row);
  }

  /** `P <cr3> <tokens p0…p3> =ok|=bad` */
  private pdpteLoad(tokens: readonly string[]): void {
    // A register write announced by the pending state is still under way: its effects come with its own record.
    this.setPending([Reg.CR0, Reg.CR3, Reg.CR4, ...PDPTES]);
    const outcome = tokens[tokens.length - 1];
    if (outcome !== '=ok' && outcome !== '=bad')
      throw new TokenError(`"${outcome ?? ''}" is no outcome of loading PDPTEs`);
    const rows = tokens.slice(2, -1).map(parseToken);
    this.learn(rows);
    this.step(StepKind.PDPTE_LOAD, this.hex(tokens[1], 'CR3'), ZERO);
    for (const row of rows) this.observe(row);
    this.steps.observe(Obs.PDPTE_LOADED, 0, 0, outcome === '=ok' ? 1 : 0, 0);
    this.afterPdpteLoad = outcome === '=ok';
  }

  private invalidation(tokens: readonly string[]): void {
    const [, what = '', a, b, c] = tokens;
    switch (what) {
      case 'cr0':
        this.registerWrite(Reg.CR0, a, 0);
        return;
      case 'cr3':
        this.registerWrite(Reg.CR3, a, 0);
        return;
      case 'cr4':
        this.registerWrite(Reg.CR4, a, 0);
        return;
      case 'task':
        this.registerWrite(Reg.CR3, a, REGISTER_WRITE_TASK_SWITCH);
        return;
    }
    this.setPending();
    const op = (instruction: number, type = 0): number =>
      StepKind.INVALIDATE | (instruction << INVALIDATION_SHIFT) | (type << INVALIDATION_TYPE_SHIFT);
    const type = (): number => this.hex(a, 'type').lo & 7;
    switch (what) {
      case 'invlpg':
        this.step(op(Invalidation.INVLPG), this.hex(a, 'address'), ZERO);
        break;
      case 'invlpga':
        this.step(op(Invalidation.INVLPGA), this.hex(a, 'address'), this.hex(b, 'ASID'));
        break;
      case 'invpcid':
        this.step(op(Invalidation.INVPCID, type()), this.hex(c, 'address'), this.hex(b, 'PCID'));
        break;
      case 'invvpid':
        this.step(op(Invalidation.INVVPID, type()), this.hex(c, 'address'), this.hex(b, 'VPID'));
        break;
      case 'invept':
        this.step(op(Invalidation.INVEPT, type()), ZERO, this.hex(b, 'EPTP'));
        break;
      case 'vmfunc_eptp': {
        const eptp = this.hex(a, 'EPTP');
        this.step(op(Invalidation.EPTP_SWITCH), ZERO, eptp);
        this.hold(Reg.EPTP, eptp);
        break;
      }
      default:
        throw new TokenError(`unknown invalidation "${what}"`);
    }
  }

  private registerWrite(register: number, operand: string | undefined, flags: number): void {
    const outcomes = CHANGED_BY[register]!;
    this.setPending(outcomes);
    this.step(StepKind.REGISTER_WRITE | (register << STEP_REGISTER_SHIFT) | flags, ZERO, this.hex(operand, 'value'));
    for (const outcome of outcomes) {
      const pending = this.pending.get(outcome);
      if (pending === undefined) continue;
      this.expectRegister(outcome, pending.value);
      this.pending.delete(outcome);
    }
  }

  /** `V entry | V exit <reason> <qualification> @rip | V vmrun <asid> <tlb_control> | V svmexit <code> <info1> …` */
  private transition(tokens: readonly string[]): void {
    const [, what = '', a, b] = tokens;
    this.setPending();
    switch (what) {
      case 'entry':
        this.entry = { op: StepKind.NESTED_ENTRY, line: this.line };
        break;
      case 'vmrun': {
        const control = this.hex(b, 'TLB_CONTROL').lo & 0xff;
        const op = StepKind.NESTED_ENTRY | NESTED_SVM | (control << NESTED_TLB_CONTROL_SHIFT);
        this.entry = { op, line: this.line };
        break;
      }
      case 'exit':
        this.step(StepKind.NESTED_EXIT, this.hex(b, 'qualification'), this.hex(a, 'reason'));
        break;
      case 'svmexit':
        this.step(StepKind.NESTED_EXIT | NESTED_SVM, this.hex(b, 'EXITINFO1'), this.hex(a, 'exit code'));
        break;
      default:
        throw new TokenError(`unknown transition "${what}"`);
    }
  }

  /** The state that an entry loads is printed after it; the entry's flushing depends on it, so it comes second. */
  private placeEntry(): void {
    if (this.entry === undefined) return;
    const { op, line } = this.entry;
    this.steps.step(op, 0, 0, 0, 0, line);
    this.entry = undefined;
  }
}

function accessOp(letter: string, mode: string, length: number): number {
  const type = ACCESS_LETTERS.get(letter.toLowerCase());
  const cpl = Number(mode[0]);
  if (type === undefined) throw new TokenError(`unknown access "${letter}"`);
  if (!(cpl >= 0 && cpl <= 3) || (mode[1] !== 'a' && mode[1] !== '-')) throw new TokenError(`unknown mode "${mode}"`);
  const shadowStack = letter >= 'A' && letter <= 'Z' ? ACCESS_SHADOW_STACK : 0;
  const ac = mode[1] === 'a' ? ACCESS_AC : 0;
  const len = (length & ACCESS_LENGTH_MASK) << ACCESS_LENGTH_SHIFT;
  return StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT) | (cpl << ACCESS_CPL_SHIFT) | shadowStack | ac | len;
}

/** Splits a record's tokens into rows and the result, which begins with `=` or `!`. */
function splitRows(tokens: readonly string[]): { rows: Row[]; result: string[] } {
  const end = tokens.findIndex((token) => token.startsWith('=') || token.startsWith('!'));
  if (end < 0) throw new TokenError('the record has no result');
  return { rows: tokens.slice(0, end).map(parseToken), result: tokens.slice(end) };
}
