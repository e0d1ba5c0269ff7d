/**
 * The vCPU state as the steps so far have made it: what a chunk of steps must begin with. A write by the guest has its
 * architectural side effects here as it has in the machine: EFER.LMA, and the PDPTE registers of PAE paging.
 */

import {
  CR0_CD,
  CR0_NW,
  CR0_PG,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PSE,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  REGISTER_COUNT,
  Reg,
  type RegId,
} from '../../formats/registers.ts';
import type { KnownMemory } from '../known-memory.ts';

const PG = BigInt(CR0_PG);
const LME = BigInt(EFER_LME);
const LMA = BigInt(EFER_LMA);
/** Changes of these load the PDPTEs (SDM vol. 3A 4.4.1). */
const CR0_LOADS_PDPTES = BigInt(CR0_PG) | BigInt(CR0_CD) | BigInt(CR0_NW);
const CR4_LOADS_PDPTES = BigInt(CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP);
const NO_FLUSH = 1n << 63n;

export class RegisterFile {
  private readonly values: bigint[] = new Array<bigint>(REGISTER_COUNT).fill(0n);
  private readonly memory: KnownMemory;

  constructor(memory: KnownMemory) {
    this.memory = memory;
  }

  get(register: RegId): bigint {
    return this.values[register]!;
  }

  has(register: RegId, bits: number): boolean {
    return (this.values[register]! & BigInt(bits >>> 0)) !== 0n;
  }

  set(register: RegId, value: bigint): void {
    this.values[register] = value;
  }

  /** Paging with PDPTE registers is on. */
  get pae(): boolean {
    return this.has(Reg.CR0, CR0_PG) && this.has(Reg.CR4, CR4_PAE) && !this.has(Reg.EFER, EFER_LMA);
  }

  write(register: RegId, value: bigint): void {
    const old = this.values[register]!;
    switch (register) {
      case Reg.CR0: {
        this.values[register] = value;
        const efer = this.values[Reg.EFER]!;
        const longMode = (value & PG) !== 0n && (efer & LME) !== 0n;
        this.values[Reg.EFER] = longMode ? efer | LMA : efer & ~LMA;
        if (this.pae && ((old ^ value) & CR0_LOADS_PDPTES) !== 0n) this.loadPdptes();
        else if (!this.pae) this.clearPdptes();
        return;
      }
      case Reg.CR3:
        this.values[register] = this.has(Reg.CR4, CR4_PCIDE) ? value & ~NO_FLUSH : value;
        if (this.pae) this.loadPdptes();
        return;
      case Reg.CR4:
        this.values[register] = value;
        if (this.pae && ((old ^ value) & CR4_LOADS_PDPTES) !== 0n) this.loadPdptes();
        return;
      case Reg.EFER:
        this.values[register] = (value & ~LMA) | (old & LMA);
        return;
      default:
        this.values[register] = value;
    }
  }

  private clearPdptes(): void {
    for (let i = 0; i < 4; i++) this.values[Reg.PDPTE0 + i] = 0n;
  }

  private loadPdptes(): void {
    const table = this.values[Reg.CR3]! & 0xffff_ffe0n;
    for (let i = 0; i < 4; i++) {
      this.values[Reg.PDPTE0 + i] = this.memory.read(table + BigInt(8 * i), 8) ?? 0n;
    }
  }

  /** 2 × REGISTER_COUNT elements. */
  snapshot(): Uint32Array {
    const result = new Uint32Array(2 * REGISTER_COUNT);
    this.values.forEach((value, i) => {
      result[2 * i] = Number(value & 0xffff_ffffn);
      result[2 * i + 1] = Number((value >> 32n) & 0xffff_ffffn);
    });
    return result;
  }
}
