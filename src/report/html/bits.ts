/** Words of an explained walk bit by bit, for who points at them: an explanation holds them in one line. */

import { decodeCr3 } from '../../formats/decode/control-register.ts';
import { decodeEptEntry, decodeEptp } from '../../formats/decode/ept.ts';
import { KVM_PROFILES } from '../../formats/decode/kvm-role.ts';
import { decodeSpte } from '../../formats/decode/kvm-spte.ts';
import { decodePageTableEntry, PAGING_MODES } from '../../formats/decode/page-table-entry.ts';
import { type DecodedWord, longForm } from '../../formats/decode/word.ts';
import { REGISTER_NAMES } from '../../formats/registers.ts';
import type { WalkNode } from '../../replay/explanation.ts';
import { decodeRegister } from '../rows.ts';

function halves(value: string): { lo: number; hi: number } | undefined {
  const digits = /^0x([0-9a-f]{1,16})$/i.exec(value)?.[1]?.padStart(16, '0');
  if (digits === undefined) return undefined;
  return { lo: Number.parseInt(digits.slice(8), 16), hi: Number.parseInt(digits.slice(0, 8), 16) };
}

/** `machine`: in words, as the explanation has it: tells whose SPTEs these are. */
function decodedSpte(word: { lo: number; hi: number }, level: number, machine: string): DecodedWord | undefined {
  const profile = KVM_PROFILES.find((each) => machine.startsWith(`kvm ${each},`));
  return profile === undefined ? undefined : decodeSpte(word, { profile, ept: / EPT\b/.test(machine), level });
}

function decoded({ kind, name, level, value }: WalkNode, mode: string, machine: string): DecodedWord | undefined {
  const word = halves(value);
  if (word === undefined) return undefined;
  if (name === 'CR3') return decodeCr3(word);
  if (name === 'EPTP') return decodeEptp(word);
  if (kind === 'register' && name !== 'PDPTE') return undefined;
  if (level < 1 || level > 5) return undefined;
  if (name.startsWith('SPTE')) return decodedSpte(word, level, machine);
  if (name.startsWith('EPT ')) return decodeEptEntry(word, level);
  const paging = name.startsWith('NPT ') ? undefined : PAGING_MODES.find((each) => mode.startsWith(each));
  return decodePageTableEntry(word, level, { paging });
}

/** A node's value bit by bit; empty where that is not known. */
export function nodeBits(node: WalkNode, mode: string, machine: string): string[] {
  const word = node.value === '' ? undefined : decoded(node, mode, machine);
  return word === undefined ? [] : longForm(word).slice(1);
}

export function spteBits(value: string, level: number, machine: string): string[] {
  const word = halves(value);
  const spte = word === undefined || level < 1 || level > 5 ? undefined : decodedSpte(word, level, machine);
  return spte === undefined ? [] : longForm(spte);
}

/** `name`: `cr4`. */
export function registerBits(name: string, value: string): string[] {
  const word = halves(value);
  const register = REGISTER_NAMES.indexOf(name);
  const found = word === undefined || register < 0 ? undefined : decodeRegister(register, word.lo, word.hi);
  return found === undefined ? [] : longForm(found);
}
