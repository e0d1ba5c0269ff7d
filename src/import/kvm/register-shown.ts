/**
 * What the end of a walk shows of the registers that decide about rights (SDM vol. 3A 4.6): of a stranger's trace, where
 * nothing else tells CR0.WP, CR4.SMEP, CR4.SMAP and EFER.NXE.
 */

import { CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, Reg, type RegId } from '../../formats/registers.ts';
import type { RegisterFile } from '../kvm-guest/register-file.ts';
import type { Walk } from './walked-tables.ts';

const P = 1n;
const W = 2n;
const U = 4n;
const NX = 1n << 63n;
const PFEC_P = 1;
const PFEC_W = 2;
const PFEC_U = 4;
const PFEC_RSVD = 8;
const PFEC_F = 0x10;

export interface RegisterChange {
  readonly register: RegId;
  readonly bit: bigint;
  readonly on: boolean;
}

/**
 * The one bit that must be other than `registers` have it for the walk to end as it did; undefined if none need be, or
 * none would do. `software`: of a walk that is not a fault's own.
 */
export function registerShown(walk: Walk, registers: RegisterFile, software: boolean): RegisterChange | undefined {
  const { access, error, failed, all, any } = walk;
  if (walk.level === 0 || (all & P) === 0n || (failed && (error & PFEC_P) === 0)) return undefined;
  const user = (access & PFEC_U) !== 0;
  const fetch = (access & PFEC_F) !== 0;
  const write = (access & PFEC_W) !== 0;
  const wants = (register: RegId, bit: number, on: boolean): RegisterChange | undefined =>
    registers.has(register, bit) === on ? undefined : { register, bit: BigInt(bit >>> 0), on };
  const noExecute = (any & NX) !== 0n;
  if (failed && (error & PFEC_RSVD) !== 0) return noExecute ? wants(Reg.EFER, EFER_NXE, false) : undefined;
  if (noExecute && !registers.has(Reg.EFER, EFER_NXE)) return wants(Reg.EFER, EFER_NXE, true);
  const forUser = (all & U) !== 0n;
  if (user) return undefined;
  if (fetch) return forUser && !noExecute ? wants(Reg.CR4, CR4_SMEP, failed) : undefined;
  const readOnly = write && (all & W) === 0n;
  if (!readOnly) return forUser && software ? wants(Reg.CR4, CR4_SMAP, failed) : undefined;
  // Two checks: where it went through, both did not apply.
  if (!failed) return wants(Reg.CR0, CR0_WP, false) ?? (forUser ? wants(Reg.CR4, CR4_SMAP, false) : undefined);
  return forUser && registers.has(Reg.CR4, CR4_SMAP) ? undefined : wants(Reg.CR0, CR0_WP, true);
}
