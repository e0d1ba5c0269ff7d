/**
 * The marks: every line that a guest, its hypervisor or the VMM writes to `vmm.log`, as a table of templates.
 *
 * A line that no template fits is an error: nothing is passed over because it is not understood. What each kind means
 * and what becomes of it is told in the README beside this file.
 */

import { Problem } from '../../bits/problem.ts';
import { type CompiledTemplate, compileTemplate, type Fields, matchTemplate } from './mark-templates.ts';

const TEMPLATES = {
  // The VMM.
  vmmCapabilities: 'api {api:d} nested_state {nested:d} sregs2 {sregs2:d} romem {romem:d}',
  cpuid: 'cpuid {leaf:x}.{subleaf:x} eax={eax:x} ebx={ebx:x} ecx={ecx:x} edx={edx:x}',
  vmmStart: 'VMM start blob={blob:w} bytes={bytes:d} mode={mode:d}',
  vmmExitCommand: 'VMM exit command',
  vmmEnd: 'VMM end exits={exits:d}',
  dump: 'DUMP {file:w}',
  translateBegin: 'X gva={gva:x} KVM_TRANSLATE begin',
  translated: 'X gva={gva:x} gpa={gpa:x} valid={valid:d} writeable={writeable:d} usermode={usermode:d}',
  vmmDirtyLogBegin: 'V get_dirty_log slot={slot:d} begin',
  vmmDirtyLog: 'V get_dirty_log rc={rc:d} bm0={bitmap:x}',
  vmmDontNeed: 'V madvise_dontneed gpa={address:x} len={length:x}',
  vmmSlotDelete: 'V memslot delete slot={slot:d}',
  vmmSlotAdd: 'V memslot add slot={slot:d}',
  vmmSlotFlags: 'V memslot flags slot={slot:d} flags={flags:x}',
  vmmSignal: 'V signal_msi vector={vector:x} rc={rc:d}',

  // Stimuli, announced just before they happen.
  store: 'E a={address:x} v={value:x} s={size:d}',
  clearPage: 'Z page={address:x}',
  fill: 'B a={address:x} n={count:d} v={first:x} step={increment:x}',
  nextStore: 'W a={address:x} v={value:x} s={size:d}',
  invlpg: 'I invlpg {address:x}',
  invlpga: 'I invlpga {address:x} {asid:d}',
  invept: 'I invept {type:d} {eptp:x}',
  invvpid: 'I invvpid {type:d} {vpid:x} {address:x}',
  registerWrite: 'C {register:w} {value:x}',
  vmrun:
    'VMRUN np={np:d} ncr3={ncr3:x} asid={asid:d} tlb={tlb:d} exc={exc:x} cr0={cr0:x} cr3={cr3:x} cr4={cr4:x} efer={efer:x}',
  vmwrite: 'VW {field:x} {value:x}',
  vmentry: 'VMENTRY eptp={eptp:x} vpid={vpid:d}',
  vmfunc: 'F vmfunc eptp_index={index:d}',
  vmcallInject: 'F vmcall inject',

  // Accesses and what came of them.
  access:
    'T {n:d} {tag:w} k={access:w} u={user:d} ac={ac:d} va={va:x} pte@{entryAddress:x}={entry:x} cfg={configuration:*}',
  completed: 'R {n:d} ok pte={entry:x}',
  excepted: 'R {n:d} vec={vector:d} err={errorCode:x} cr2={cr2:x} pte={entry:x}',
  quietAccess: 'A va={va:x} k={access:w} u={user:d} ac={ac:d}',
  tableNpt: 'P l2pt gpa={gpa:x} pte={entry:x} npte={second:x}',
  tableEpt: 'P l2pt gpa={gpa:x} pte={entry:x} epte={second:x}',
  tableEptPreset: 'P l2pt-AD-preset gpa={gpa:x} pte={entry:x} epte={second:x}',
  quietNpt:
    'Q {tag:w} k={access:w} u={user:d} vec={vector:d} err={errorCode:x} cr2={cr2:x} pte={entry:x} pt_npte={second:x}',
  quietEpt:
    'Q {tag:w} k={access:w} u={user:d} vec={vector:d} err={errorCode:x} cr2={cr2:x} pte={entry:x} pt_epte={second:x}',
  quietNptPreset: 'Q l2pt-ro-AD-preset k={access:w} vec={vector:d}',
  quietEptPreset: 'Q {tag:w} k={access:w} vec={vector:d} err={errorCode:x} cr2={cr2:x} pt_epte={second:x}',
  secondNpt: 'N gpa={gpa:x} l={level:d} npte={entry:x}',
  secondEpt: 'N gpa={gpa:x} l={level:d} epte={entry:x}',
  upperEntry: 'M level={level:d} entry@{address:x}={entry:x}',
  accessedDirty: 'AD {when:w} gpa l1={l1:x} l2={l2:x} l3={l3:x} l4={l4:x} | guest pt page l1={table:x}',
  injected: 'INJ vec={vector:d} err={errorCode:x} cr2={cr2:x}',
  vmfuncResult: 'VMFUNC eptp index={index:d} vec={vector:d} err={errorCode:x} cr2={cr2:x}',

  // States, told after the fact.
  boot: 'BOOT levels={levels:d} cr3={cr3:x}',
  boot32: 'BOOT32 levels={levels:d}',
  root: 'ROOT cr3={cr3:x}',
  configuration: 'CFG {name:w} cr0={cr0:x} cr3={cr3:x} cr4={cr4:x} efer={efer:x}',
  pagingOnState: 'PG on cr0={cr0:x} cr3={cr3:x} cr4={cr4:x}',
  pagingOn: 'PG on',
  pagingOff: 'PG off',
  globalOn: 'PGE on',
  globalOff: 'PGE off',
  pseOn: 'PSE on',
  pseOff: 'PSE off',
  keysOn: 'PKE on cr4={cr4:x}',
  pkru: 'PKRU={pkru:x}',
  writeProtect: 'CR0.WP={wp:d}',
  pcidOn: 'PCIDE on',
  cr3Reload: 'CR3 reload',
  cr3Switch: 'CR3 switch to {cr3:x}',
  cr3CacheBits: 'CR3 with PCD|PWT',
  cr3OtherPcid: 'CR3 r2 pcid2',
  cr3NoFlush: 'CR3 root pcid1 noflush',
  pdpteReserved: 'PDPTE rsvd bit1 set, reloading cr3',
  cpu: 'CPU maxpa={maxpa:d} smep={smep:d} smap={smap:d} pcid={pcid:d} leaf7b={leaf7b:x} leaf7c={leaf7c:x}',
  done: 'DONE',

  // The guest that is a hypervisor itself.
  l1Svm: 'L1 svm rev={rev:x} nasid={nasid:x} features={features:x} efer={efer:x} cr3={cr3:x} cr4={cr4:x} cr0={cr0:x}',
  l1Vmcb: 'L1 vmcb={vmcb:x} ncr3={ncr3:x} ncr3b={ncr3b:x} l2cr3={l2cr3:x} np={np:d}',
  l1Cpuid: 'L1 cpuid1.ecx={ecx:x} vmx={vmx:d}',
  l1Vmx:
    'L1 feat_ctl={control:x} vmx_basic={basic:x} pin={pin:x} proc={proc:x} proc2={proc2:x} exit={exit:x} entry={entry:x}',
  l1Ept: 'L1 ept_vpid_cap={capabilities:x} misc={misc:x} cr0f0={cr0:x} cr4f0={cr4:x}',
  l1VmfuncCapability: 'L1 vmfunc={vmfunc:x}',
  l1Vmxon: 'L1 vmxon flags={flags:x}',
  l1Vmclear: 'L1 vmclear flags={flags:x}',
  l1Vmptrld: 'L1 vmptrld flags={flags:x}',
  l1Vmcs: 'L1 vmcs={vmcs:x} ept={ept:x} ept2={ept2:x} l2cr3={l2cr3:x} useept={useept:d} proc2={proc2:x}',
  l1Apic: 'L1 apic svr={svr:x}',
  l1BadEfer: 'L1 vmrun with invalid save.efer',
  l1Refused: 'L1 vmexit code={code:x}',
  l1RefusedNcr3: 'L1 bad ncr3: vmexit code={code:x}',
  l1RefusedAsid: 'L1 asid 0: vmexit code={code:x}',
  l1Skinit: 'L1 skinit vec={vector:d}',
  l1Npf: 'L1 NPF gpa={gpa:x} info1={info:x} rip={rip:x} cpl={cpl:d} policy={policy:d}',
  l1NpfFix: 'L1 NPF fix npte={entry:x}',
  l1Violation: 'L1 EPT-violation gpa={gpa:x} qual={info:x} gla={gla:x} rip={rip:x} cpl={cpl:d} policy={policy:d}',
  l1Misconfig: 'L1 EPT-misconfig gpa={gpa:x} qual={info:x} gla={gla:x} rip={rip:x} cpl={cpl:d} policy={policy:d}',
  l1EptFix: 'L1 EPT fix epte={entry:x}',
  l1PageFault: 'L1 PF-intercept err={info:x} cr2={cr2:x} rip={rip:x}',
  l1ShadowFix: 'L1 shadow fix pte@{address:x}={entry:x}',
  l1SetNpte: 'L1 set npte gpa={gpa:x} l={level:d} npte@{address:x}={entry:x} tlbctl={tlb:d}',
  l1SetEpte: 'L1 set epte gpa={gpa:x} l={level:d} epte@{address:x}={entry:x} flush={flush:d}',
  l1TlbControl: 'L1 tlb_control={tlb:d}',
  l1Asid: 'L1 asid={asid:d}',
  l1Vpid: 'L1 vpid={vpid:d}',
  l1Invlpga: 'L1 invlpga va={address:x} asid={asid:d}',
  l1Invept: 'L1 invept type={type:d} desc={eptp:x},{second:x} flags={flags:x} insn_error={error:x}',
  l1Invvpid: 'L1 invvpid type={type:d} desc={vpid:x},{address:x} flags={flags:x} insn_error={error:x}',
  l1Ncr3: 'L1 ncr3={ncr3:x}',
  l1EptpAd: 'L1 eptp={eptp:x} (A/D {state:w})',
  l1Eptp: 'L1 eptp={eptp:x}',
  l1Efer: 'L1 efer={value:x}',
  l1Cr4: 'L1 cr4={value:x}',
  l1Cr0: 'L1 cr0={value:x}',
  l1Proc2: 'L1 proc2={value:x}',
  l1PmlBuffer: 'L1 pml buffer={address:x} index={index:d}',
  l1PmlIndex: 'L1 pml index={index:x}',
  l1PmlEntry: 'L1 pml[{i:d}]={gpa:x}',
  l1PmlFull: 'L1 PML-full qual={info:x} rip={rip:x} index={index:x} pml[0]={gpa:x}',
  l1Inject: 'L1 inject #PF err={errorCode:x} cr2={cr2:x}',
  l1InterceptIntr: 'L1 intercept INTR on',
  l1Interrupted: 'L1 INTR vmexit rip={rip:x}',
  l1ExitIntInfo: 'L1 exitintinfo={info:x} (reinjected)',
  l1IdtVectoring: 'L1 idt_vectoring={info:x} err={errorCode:x} (reinjected)',
  l1VmfuncExit: 'L1 vmfunc exit qual={info:x} rip={rip:x}',
  l1UnexpectedSvm: 'L1 unexpected exit code={code:x} info1={info:x} info2={info2:x} rip={rip:x}',
  l1BadEntryFailed: 'L1 bad entry {what:*}: flags={flags:x} insn_error={error:x}',
  l1BadEntryExited: 'L1 bad entry {what:*}: exit reason={reason:x} qual={info:x}',
  l1L2Done: 'L1 L2-done',
  l1EndSvm: 'L1 end exits={exits:x} npf={npf:x}',
  l1EndVmx: 'L1 end exits={exits:x} viol={violations:x}',

  // Its guest.
  l2Start: 'L2 start cr3={cr3:x} cr0={cr0:x} cr4={cr4:x} efer={efer:x}',
  l2End: 'L2 end',
  l2WriteProtectOff: 'L2 WP off',
  l2Cr3Reload: 'L2 cr3 reload',
  l2Smep: 'L2 SMEP',
  l2Smap: 'L2 SMAP',
  l2RequestMsi: 'L2 requesting MSI with IF=1',
  l2AfterMsi: 'L2 after MSI',
} as const;

type Templates = typeof TEMPLATES;
export type MarkKind = keyof Templates;

/** A mark of one kind. `line`: from 1. `inL2`: the line says that the guest's guest does it. */
export type MarkOf<Kind extends MarkKind> = Kind extends MarkKind
  ? { readonly kind: Kind; readonly line: number; readonly inL2: boolean } & Fields<Templates[Kind]>
  : never;

export type Mark = MarkOf<MarkKind>;

/** Templates by first word, so that a line meets only few of them. */
const byFirstWord = new Map<string, { readonly kind: MarkKind; readonly template: CompiledTemplate }[]>();
for (const [kind, template] of Object.entries(TEMPLATES) as [MarkKind, string][]) {
  const word = firstWord(template);
  const list = byFirstWord.get(word) ?? [];
  list.push({ kind, template: compileTemplate(template) });
  byFirstWord.set(word, list);
}

function firstWord(line: string): string {
  return /^[A-Za-z0-9.]*/.exec(line)![0];
}

/** The mark on a line of the log; a line that is no known mark is a `Problem` with its place. */
export function parseMark(text: string, line: number): Mark {
  const inL2 = text.endsWith(' in=l2');
  const body = inL2 ? text.slice(0, -' in=l2'.length) : text;
  for (const { kind, template } of byFirstWord.get(firstWord(body)) ?? []) {
    const fields = matchTemplate(template, body);
    if (fields !== undefined) return { kind, line, inL2, ...fields } as unknown as Mark;
  }
  throw new Problem(
    'E_IMPORT',
    `unknown mark: ${text.length > 120 ? `${text.slice(0, 120)}…` : text}`,
    { line },
    'the log must come from the guests that src/import/kvm-guest/README.md lists',
  );
}

/** Refuses a mark whose fields make no sense. */
export function demand(condition: boolean, mark: { readonly line: number }, what: string): asserts condition {
  if (!condition) throw new Problem('E_IMPORT', what, { line: mark.line });
}
