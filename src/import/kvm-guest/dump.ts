/**
 * A dump: vCPU state, memory slots and every non-zero page of the guest, as the VMM wrote them at one moment.
 *
 * Read: control registers, PDPTEs, the base of the GDT, the nested state, slots, pages. Passed over on purpose: general
 * registers and segments, which paging does not need.
 */

import { Problem } from '../../bits/problem.ts';

export interface DumpedSlot {
  readonly slot: number;
  readonly gpa: bigint;
  readonly size: bigint;
  /** KVM_MEM_* flags: 1 dirty log, 2 read-only. */
  readonly flags: bigint;
  /** Host-virtual address of the first byte. */
  readonly hva: bigint;
}

/** The guest's own VMCB while it runs a guest: what its VMRUN used. */
export interface DumpedVmcb {
  readonly nestedControl: bigint;
  readonly ncr3: bigint;
  readonly asid: bigint;
}

export interface Dump {
  /** cr0, cr2, cr3, cr4, efer … by name. */
  readonly registers: ReadonlyMap<string, bigint>;
  readonly pdptes: readonly bigint[] | undefined;
  readonly gdtBase: bigint | undefined;
  /** The guest's guest was running. */
  readonly inL2: boolean;
  readonly vmcb: DumpedVmcb | undefined;
  readonly slots: readonly DumpedSlot[];
  /** Non-zero pages by frame number: 1024 elements each. */
  readonly pages: ReadonlyMap<number, Uint32Array>;
}

const PASSED_OVER = /^(cs|ss|ds|tr) sel=|^rip=/;

/** Builds a `Dump` from its lines; `line` throws a `Problem` for a line that it does not know. */
export class DumpReader implements Dump {
  readonly registers = new Map<string, bigint>();
  pdptes: bigint[] | undefined;
  gdtBase: bigint | undefined;
  inL2 = false;
  vmcb: DumpedVmcb | undefined;
  readonly slots: DumpedSlot[] = [];
  readonly pages = new Map<number, Uint32Array>();
  private page: Uint32Array | undefined;

  line(text: string, number: number): void {
    if (text.startsWith(' ')) {
      this.word(text, number);
    } else if (text.startsWith('page ')) {
      this.startPage(text, number);
    } else if (!this.state(text) && !PASSED_OVER.test(text)) {
      throw new Problem('E_IMPORT', `unknown line of a dump: ${text.slice(0, 80)}`, { line: number });
    }
  }

  private startPage(text: string, number: number): void {
    const match = /^page ([0-9a-f]{1,13})$/.exec(text);
    if (match === null) throw new Problem('E_IMPORT', 'a page of a dump without a proper address', { line: number });
    this.page = new Uint32Array(1024);
    this.pages.set(Number(BigInt(`0x${match[1]}`) >> 12n), this.page);
  }

  private word(text: string, number: number): void {
    const match = /^ ([0-9a-f]{3}) ([0-9a-f]{1,16})$/.exec(text);
    const offset = match === null ? -1 : Number.parseInt(match[1]!, 16);
    if (match === null || offset % 8 !== 0 || this.page === undefined) {
      throw new Problem('E_IMPORT', 'a word of a dump that belongs to no page or is malformed', { line: number });
    }
    const value = BigInt(`0x${match[2]}`);
    this.page[offset / 4] = Number(value & 0xffff_ffffn);
    this.page[offset / 4 + 1] = Number(value >> 32n);
  }

  /** Reads a line of state; false if it is none. */
  private state(text: string): boolean {
    if (text.startsWith('cr0=')) {
      for (const [name, value] of pairs(text)) this.registers.set(name, value);
      return true;
    }
    if (text.startsWith('pdptrs ')) {
      this.pdptes = text
        .slice('pdptrs '.length)
        .split(' ')
        .map((word) => BigInt(`0x${word}`));
      return true;
    }
    if (text.startsWith('gdt ')) {
      this.gdtBase = BigInt(`0x${text.split(' ')[1]}`);
      return true;
    }
    if (text.startsWith('nested ')) {
      this.inL2 = ((pairs(text).get('flags') ?? 0n) & 1n) !== 0n;
      return true;
    }
    if (text.startsWith('vmcb12 ')) {
      const fields = pairs(text);
      this.vmcb = {
        nestedControl: fields.get('np_ctl') ?? 0n,
        ncr3: fields.get('nested_cr3') ?? 0n,
        asid: fields.get('asid') ?? 0n,
      };
      return true;
    }
    if (text.startsWith('slot ')) {
      const fields = pairs(text);
      const slot = Number(text.split(' ')[1]);
      const field = (name: string): bigint => fields.get(name) ?? 0n;
      this.slots.push({ slot, gpa: field('gpa'), size: field('size'), flags: field('flags'), hva: field('hva') });
      return true;
    }
    return false;
  }
}

/** `name=hex` pairs of a line. */
function pairs(text: string): Map<string, bigint> {
  const result = new Map<string, bigint>();
  for (const match of text.matchAll(/(\w+)=(?:0x)?([0-9a-f]+)/g)) result.set(match[1]!, BigInt(`0x${match[2]}`));
  return result;
}
