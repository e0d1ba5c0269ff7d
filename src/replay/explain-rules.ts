/**
 * The rules that entries and walks are judged by, one check each with its citation: what the manuals say of these words
 * under these registers. The machine's own verdict comes from its walk, which decides by tables; where the two contradict
 * each other, the check says so.
 */

import { hexText } from '../bits/word64.ts';
import { eptMisconfiguration } from '../formats/decode/ept.ts';
import {
  CR0_WP,
  CR4_PAE,
  CR4_PKE,
  CR4_PKS,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
} from '../formats/registers.ts';
import { type ReservedMasks, reservedIndex } from '../paging/reserved-bits.ts';
import type { CheckOutcome, ExplainedCheck } from './explanation.ts';

/** What is asked of a translation. */
export interface Asked {
  readonly write: boolean;
  readonly fetch: boolean;
  readonly user: boolean;
  /** An implicit supervisor access. */
  readonly implicit: boolean;
  /** RFLAGS.AC. */
  readonly ac: boolean;
  readonly shadowStack: boolean;
}

export function askedText({ write, fetch, user, implicit }: Asked): string {
  const what = fetch ? 'fetch' : write ? 'write' : 'read';
  return `${what} by ${user ? 'user' : implicit ? 'supervisor (implicit)' : 'supervisor'}`;
}

/** Mode bits that decide about rights in CR3's tables, or in NPT. */
export interface RightsMode {
  readonly wp: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
  readonly nxe: boolean;
  readonly longMode: boolean;
  /** PKRU counts; PKRS counts. */
  readonly pke: boolean;
  readonly pks: boolean;
  readonly pkru: number;
  readonly pkrs: number;
}

/** The mode of CR3's tables by registers, 2 elements each. */
export function guestMode(registers: Uint32Array): RightsMode {
  const low = (register: number): number => registers[2 * register]!;
  const cr4 = low(Reg.CR4);
  const longMode = (low(Reg.EFER) & (EFER_LMA | EFER_LME)) !== 0 && (cr4 & CR4_PAE) !== 0;
  return {
    wp: (low(Reg.CR0) & CR0_WP) !== 0,
    smep: (cr4 & CR4_SMEP) !== 0,
    smap: (cr4 & CR4_SMAP) !== 0,
    nxe: (low(Reg.EFER) & EFER_NXE) !== 0 && (cr4 & CR4_PAE) !== 0,
    longMode,
    pke: longMode && (cr4 & CR4_PKE) !== 0,
    pks: longMode && (cr4 & CR4_PKS) !== 0,
    pkru: low(Reg.PKRU),
    pkrs: low(Reg.PKRS),
  };
}

/** The mode of NPT by the hypervisor's registers (APM vol. 2 15.25.3, 15.25.5): CR0.WP counts as set, SMEP and SMAP as clear. */
export function nptMode(registers: Uint32Array): RightsMode {
  const nxe = (registers[2 * Reg.HOST_EFER]! & EFER_NXE) !== 0;
  return {
    wp: true,
    smep: false,
    smap: false,
    nxe,
    longMode: true,
    pke: false,
    pks: false,
    pkru: 0,
    pkrs: 0,
  };
}

function check(name: string, rule: string, citation: string, outcome: CheckOutcome, detail = ''): ExplainedCheck {
  return { name, rule, citation, outcome, detail };
}

function judged(name: string, rule: string, citation: string, passes: boolean, detail = ''): ExplainedCheck {
  return check(name, rule, citation, passes ? 'pass' : 'fail', passes ? '' : detail);
}

// ------------------------------------------------------------------------------------------- entries of CR3's tables, NPT

/** Bits that are set, as `bits 51, 48`. */
function bitNumbers(lo: number, hi: number): string {
  const bits: number[] = [];
  for (let bit = 63; bit >= 0; bit--)
    if ((((bit < 32 ? lo >>> bit : hi >>> (bit - 32)) & 1) as number) !== 0) bits.push(bit);
  return `${bits.length === 1 ? 'bit' : 'bits'} ${bits.join(', ')} ${bits.length === 1 ? 'is' : 'are'} set`;
}

const PRESENT_CITATION = 'SDM vol. 3A 4.3 to 4.5; APM vol. 2 5.3';
const RESERVED_CITATION = 'SDM vol. 3A 4.7, tables 4-4 to 4-20; APM vol. 2 5.6.2';

/** Present, and no reserved bit. `masks`: those that the walk goes by. */
export function entryChecks(
  level: number,
  lo: number,
  hi: number,
  masks: ReservedMasks | null,
  nxe: boolean,
): ExplainedCheck[] {
  const present = (lo & 1) !== 0;
  const checks = [judged('present', 'P must be 1', PRESENT_CITATION, present, 'P = 0')];
  if (!present || masks === null) return checks;
  const index = reservedIndex(level, lo);
  const badLo = lo & masks.lo[index]!;
  const badHi = hi & masks.hi[index]!;
  const rule = 'no reserved bit may be 1';
  const found = judged('reserved', rule, RESERVED_CITATION, (badLo | badHi) === 0, bitNumbers(badLo, badHi));
  const nxOnly = badLo === 0 && (badHi & 0x7fff_ffff) === 0 && badHi < 0;
  const contradicted =
    nxOnly && nxe ? 'bit 63 is taken for reserved although EFER.NXE is set: the walk goes by another EFER' : undefined;
  const missed = hi < 0 && !nxe && (badLo | badHi) === 0 ? 'bit 63 passes although EFER.NXE is clear' : undefined;
  const text = contradicted ?? missed;
  checks.push(text === undefined ? found : { ...found, contradicted: text });
  return checks;
}

/** Rights as `rwux`, of the low halves ANDed and the NX bits ORed. */
export function rightsText(allLo: number, anyHi: number): string {
  const letter = (on: boolean, name: string): string => (on ? name : '-');
  return (
    letter((allLo & 1) !== 0, 'r') +
    letter((allLo & 2) !== 0, 'w') +
    letter((allLo & 4) !== 0, 'u') +
    letter(anyHi >= 0, 'x')
  );
}

/** What is known of a walk of x86 tables that got to its leaf. */
export interface Leaf {
  /** Low halves of the entries that have rights, ANDed; high halves, ORed. */
  readonly allLo: number;
  readonly anyHi: number;
  readonly leafHi: number;
  /** Low halves of the leaf, and of the entries above it ANDed: for shadow stacks. */
  readonly leafLo: number;
  readonly aboveLo: number;
}

/** Rights of the entries combined against what is asked. */
export function rightsChecks(leaf: Leaf, asked: Asked, mode: RightsMode): ExplainedCheck[] {
  const userPage = (leaf.allLo & 4) !== 0;
  const writable = (leaf.allLo & 2) !== 0;
  const executable = leaf.anyHi >= 0;
  const checks: ExplainedCheck[] = [];
  const not = (name: string, rule: string, citation: string, why: string): void => {
    checks.push(check(name, rule, citation, 'not-asked', why));
  };
  const rights = 'SDM vol. 3A 4.6.1; APM vol. 2 5.6';
  if (asked.shadowStack) return [shadowStackCheck(leaf, asked, userPage), keyCheck(leaf, asked, mode, userPage)];
  const userRule = 'a user access needs U/S = 1 in every entry';
  if (asked.user) checks.push(judged('user', userRule, rights, userPage, 'an entry has U/S = 0'));
  else not('user', userRule, rights, 'a supervisor access');

  const writeRule = 'a write needs R/W = 1 in every entry; a supervisor only with CR0.WP';
  if (!asked.write) not('write', writeRule, rights, 'no write');
  else if (!asked.user && !mode.wp) not('write', writeRule, rights, writable ? 'CR0.WP = 0' : 'CR0.WP = 0, R/W is 0');
  else checks.push(judged('write', writeRule, rights, writable, 'an entry has R/W = 0'));

  const executeRule = 'a fetch needs NX = 0 in every entry, where EFER.NXE';
  if (!asked.fetch) not('execute', executeRule, rights, 'no fetch');
  else if (!mode.nxe) not('execute', executeRule, rights, 'EFER.NXE = 0');
  else checks.push(judged('execute', executeRule, rights, executable, 'an entry has NX = 1'));

  const smepRule = 'CR4.SMEP forbids supervisor fetches from user pages';
  if (!asked.fetch || asked.user) not('smep', smepRule, rights, 'no supervisor fetch');
  else if (!mode.smep) not('smep', smepRule, rights, userPage ? 'CR4.SMEP = 0, a user page' : 'CR4.SMEP = 0');
  else checks.push(judged('smep', smepRule, rights, !userPage, 'the page is a user page'));

  const smapRule = 'CR4.SMAP forbids supervisor data accesses to user pages, but explicit ones with RFLAGS.AC';
  if (asked.fetch || asked.user) not('smap', smapRule, rights, 'no supervisor data access');
  else if (!mode.smap) not('smap', smapRule, rights, userPage ? 'CR4.SMAP = 0, a user page' : 'CR4.SMAP = 0');
  else if (asked.ac && !asked.implicit)
    not('smap', smapRule, rights, userPage ? 'RFLAGS.AC = 1, a user page' : 'RFLAGS.AC = 1');
  else {
    const why = asked.ac
      ? 'the page is a user page, and RFLAGS.AC does not excuse implicit accesses'
      : 'the page is a user page';
    checks.push(judged('smap', smapRule, rights, !userPage, why));
  }
  checks.push(keyCheck(leaf, asked, mode, userPage));
  return checks;
}

function shadowStackCheck({ leafLo, aboveLo }: Leaf, asked: Asked, userPage: boolean): ExplainedCheck {
  const rule = 'a shadow-stack access needs a page of its own privilege with R/W = 0 and D = 1, and R/W = 1 above';
  const page = (aboveLo & 2) !== 0 && (leafLo & 2) === 0 && (leafLo & 0x40) !== 0;
  const detail = page ? 'the page is of the other privilege' : 'the page is no shadow-stack page';
  return judged('shadow-stack', rule, 'SDM vol. 3A 4.6.1', page && userPage === asked.user, detail);
}

function keyCheck(leaf: Leaf, asked: Asked, mode: RightsMode, userPage: boolean): ExplainedCheck {
  const rule = userPage
    ? 'PKRU must not disable the access by the protection key of a user page, where CR4.PKE'
    : 'PKRS must not disable the access by the protection key of a supervisor page, where CR4.PKS';
  const citation = 'SDM vol. 3A 4.6.2; APM vol. 2 5.6.7';
  const on = userPage ? mode.pke : mode.pks;
  const key = (leaf.leafHi >>> 27) & 0xf;
  if (asked.fetch) return check('key', rule, citation, 'not-asked', 'a fetch');
  if (!on) return check('key', rule, citation, 'not-asked', userPage ? 'CR4.PKE = 0' : 'CR4.PKS = 0');
  const disabled = ((userPage ? mode.pkru : mode.pkrs) >>> (2 * key)) & 3;
  const writeCounts = mode.wp || (asked.user && userPage);
  const denied = (disabled & 1) !== 0 || (asked.write && writeCounts && (disabled & 2) !== 0);
  return judged('key', rule, citation, !denied, `key ${key} has ${(disabled & 1) !== 0 ? 'AD' : 'WD'} set`);
}

// ------------------------------------------------------------------------------------------------------- entries of EPT

export interface EptMode {
  readonly mbec: boolean;
  readonly executeOnly: boolean;
  readonly maxphyaddr: number;
  readonly ad: boolean;
}

/** Present, and not misconfigured. */
export function eptEntryChecks(level: number, lo: number, hi: number, mode: EptMode): ExplainedCheck[] {
  const present = (lo & 7) !== 0 || (mode.mbec && (lo & 0x400) !== 0);
  const rule = mode.mbec ? 'one of bits 2:0 or bit 10 must be 1' : 'one of bits 2:0 must be 1 (bit 10 does not count)';
  const checks = [judged('present', rule, 'SDM vol. 3C 29.3.2', present, mode.mbec ? 'all are 0' : 'bits 2:0 are 0')];
  if (!present) return checks;
  const wrong = eptMisconfiguration({ lo: lo >>> 0, hi: hi >>> 0 }, level, {
    mbec: mode.mbec,
    executeOnly: mode.executeOnly,
    maxphyaddr: mode.maxphyaddr,
  });
  const citation = 'SDM vol. 3C 29.3.3.1; facts/kvm-mmu.md §4';
  checks.push(judged('misconfiguration', 'the entry must not be misconfigured', citation, wrong === undefined, wrong));
  return checks;
}

/** `RWX`, with user-execute where it counts. */
export function eptRightsText(allLo: number, mbec: boolean): string {
  const letter = (bit: number, name: string): string => ((allLo & bit) !== 0 ? name : '-');
  return letter(1, 'R') + letter(2, 'W') + letter(4, 'X') + (mbec ? letter(0x400, 'U') : '');
}

/** `ofTable`: one of the guest's paging structures, which count as written where A and D bits are on. `readNeeded`: see there. */
export function eptRightsChecks(
  allLo: number,
  asked: Pick<Asked, 'write' | 'fetch'> & { readonly userPage: boolean; readonly ofTable: boolean },
  mode: EptMode,
  alwaysReads: boolean,
): ExplainedCheck[] {
  const citation = 'SDM vol. 3C 29.3.3.2';
  const checks: ExplainedCheck[] = [];
  const readRule = 'a read needs bit 0 in every entry';
  const reads = !asked.fetch && (!asked.write || asked.ofTable);
  if (reads || alwaysReads) {
    checks.push(judged('ept-read', readRule, citation, (allLo & 1) !== 0, 'bit 0 is 0'));
  } else checks.push(check('ept-read', readRule, citation, 'not-asked', 'no read'));
  const writeRule =
    'a write needs bit 1 in every entry; with EPT A/D bits a read of a paging structure counts as a write';
  const writes = asked.write || (asked.ofTable && mode.ad);
  if (writes)
    checks.push(judged('ept-write', writeRule, 'SDM vol. 3C 29.3.3.2, 29.3.5', (allLo & 2) !== 0, 'bit 1 is 0'));
  else checks.push(check('ept-write', writeRule, citation, 'not-asked', 'no write'));
  const bit = mode.mbec && asked.userPage ? 0x400 : 4;
  const executeRule = mode.mbec
    ? 'a fetch needs bit 10 (user page) or bit 2 (supervisor page) in every entry'
    : 'a fetch needs bit 2 in every entry';
  if (asked.fetch) {
    checks.push(judged('ept-execute', executeRule, citation, (allLo & bit) !== 0, `bit ${bit === 4 ? 2 : 10} is 0`));
  } else checks.push(check('ept-execute', executeRule, citation, 'not-asked', 'no fetch'));
  return checks;
}

// ------------------------------------------------------------------------------------------------------------- verdicts

/** The mode bit that keeps a rule from being asked, and that would make it fail if it were otherwise. */
const WOULD_FAIL: Readonly<Record<string, RegExp>> = {
  write: /CR0\.WP = 0, R\/W is 0/,
  smep: /CR4\.SMEP = 0, a user page/,
  smap: /a user page/,
  execute: /EFER\.NXE = 0/,
  key: /CR4\.PK[ES] = 0/,
};

/**
 * Marks the checks that contradict the machine's verdict on rights. `denied`: it refused the access because of rights;
 * `byKey`: because of a key.
 */
export function withVerdict(checks: readonly ExplainedCheck[], denied: boolean, byKey = false): ExplainedCheck[] {
  const failing = checks.some(({ outcome }) => outcome === 'fail');
  if (failing && !denied) {
    const letThrough = 'the machine let it through all the same';
    return checks.map((each) => (each.outcome === 'fail' ? { ...each, contradicted: letThrough } : each));
  }
  if (failing || !denied) return [...checks];
  const refused = 'the machine refused it all the same';
  return checks.map((each) => {
    if (byKey && each.name === 'key')
      return { ...each, contradicted: `${refused}, because of its key${asIf(each.detail)}` };
    const suspect = !byKey && each.name !== 'key' && (WOULD_FAIL[each.name]?.test(each.detail) ?? false);
    return suspect ? { ...each, contradicted: `${refused}${asIf(each.detail)}` } : each;
  });
}

/** `, as if CR0.WP were 1`, from why a rule was not asked; nothing where it was. */
function asIf(detail: string): string {
  const [, name, value] = /^(\S+) = ([01])/.exec(detail) ?? [];
  return name === undefined ? '' : `, as if ${name} were ${value === '0' ? 1 : 0}`;
}

/** The error code of a page fault: what the rules make of it against what was reported. */
export function errorCodeCheck(reported: number, expected: number): ExplainedCheck {
  const rule = 'P, RSVD and PK say what failed; W, U and F what was asked, F only with SMEP or NX in use';
  const citation = 'SDM vol. 3A 4.7; APM vol. 2 8.4.2';
  if (reported === expected) return check('error-code', rule, citation, 'pass');
  const bits = ['P', 'W', 'U', 'RSVD', 'F', 'PK', 'SS'].filter((_, bit) => (((reported ^ expected) >>> bit) & 1) !== 0);
  const contradicted = `error code ${hexText(reported, 0)} was reported, by the rule it is ${hexText(expected, 0)}: ${bits.join(', ')}`;
  return {
    ...check('error-code', rule, citation, 'fail', `${bits.join(', ')} differ${bits.length === 1 ? 's' : ''}`),
    contradicted,
  };
}
