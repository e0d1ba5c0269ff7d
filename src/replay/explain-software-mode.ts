/** Whether a walk of KVM's goes by what the registers of whoever runs say: depth, second stage, role. Shown where it does not. */

import {
  CR0_PG,
  CR4_LA57,
  CR4_PAE,
  EFER_LMA,
  EPTP_AD,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
} from '../formats/registers.ts';
import { WRITE } from '../paging/access.ts';
import { cr0Wp, cr4Smep, EXT_CR4_SMAP, eferNx } from '../paging/kvm-roles.ts';
import type { RightsMode } from './explain-rules.ts';
import type { Frame } from './explain-software-frame.ts';
import type { ExplainedCheck } from './explanation.ts';

/** That the walk goes by the mode in force: depth, second stage, EPT's A and D bits. */
export function rootChecks({ walk, begun, context }: Frame): ExplainedCheck[] {
  const { registers } = begun;
  const checks: ExplainedCheck[] = [];
  const contradict = (name: string, rule: string, citation: string, contradicted: string): void => {
    checks.push({ name, rule, citation, outcome: 'fail', detail: contradicted, contradicted });
  };
  if (walk.ept) {
    const ad = (registers[2 * Reg.EPTP]! & EPTP_AD) !== 0;
    if (ad !== walk.haveAd) {
      const text = `EPTP bit 6 is ${ad ? 1 : 0}, and ${context} ${walk.haveAd ? 'uses' : 'does not use'} A and D bits`;
      contradict('ept-ad', 'EPTP bit 6 says whether EPT has A and D bits', 'SDM vol. 3C 25.6.11', text);
    }
    return checks;
  }
  if (walk.ngpa) return checks;
  const level = levelOfMode(registers);
  if (level !== begun.rootLevel) {
    const text = `${context} walks tables of ${begun.rootLevel} levels, by the registers they have ${level}: the paging mode is another guest's`;
    contradict('mode', 'CR0, CR4 and EFER of whoever runs say how deep the tables are', 'facts/kvm-mmu.md §2.3', text);
  }
  const nested = nestsPaging(registers);
  if (nested !== begun.hasSecond) {
    const text = nested
      ? `L2 runs with nested paging, and ${context} sends no address through tdpWalk`
      : `whoever runs has no nested paging, and ${context} sends its addresses through tdpWalk`;
    contradict(
      'second-stage',
      'addresses go through tdpWalk while L2 runs with nested paging, and only then',
      'facts/kvm-mmu.md §1.3, §5.3',
      text,
    );
  }
  return checks;
}

/** That the role which rights are judged by is that of the registers. */
export function roleChecks({ walk, context }: Frame, mode: RightsMode): ExplainedCheck[] {
  if (walk.ngpa) return [];
  const { base, ext, profile } = walk;
  const parts: readonly (readonly [name: string, judged: boolean, held: boolean])[] = [
    ['CR0.WP', cr0Wp(base, profile), mode.wp],
    ['CR4.SMEP', cr4Smep({ base, ext }, profile), mode.smep],
    ['CR4.SMAP', (ext & EXT_CR4_SMAP) !== 0, mode.smap],
    ['EFER.NXE', eferNx(base, profile), mode.nxe],
    ['CR4.PKE', walk.keyMask !== 0, mode.pke],
  ];
  return parts
    .filter(([, judged, held]) => judged !== held)
    .map(([name, judged, held]) => {
      const contradicted = `${context} judges as if ${name} were ${judged ? 1 : 0}, the register has ${held ? 1 : 0}`;
      const rule = `${name} counts as the register of whoever runs holds it`;
      return {
        name: 'role',
        rule,
        citation: 'facts/kvm-mmu.md §2.3, §3.4',
        outcome: 'fail',
        detail: contradicted,
        contradicted,
      };
    });
}

/** A table of the guest's is asked of the second stage with write intent, where A bits will be set in it. */
export function tableAccessCheck(frame: Frame, outer: Frame | undefined): ExplainedCheck | undefined {
  if (outer === undefined || outer.reachedLeaf || !outer.walk.haveAd) return undefined;
  const rule = 'the second stage is asked for a write when a page of tables is read whose A bits will be set';
  const citation = 'facts/kvm-mmu.md §5.3; APM vol. 2 15.25.5';
  if ((frame.start.valueLo & WRITE) !== 0) return undefined;
  const text = `${frame.context} is asked to translate a page of the guest's tables for a read only`;
  return { name: 'table-access', rule, citation, outcome: 'fail', detail: text, contradicted: text };
}

function levelOfMode(registers: Uint32Array): number {
  const low = (register: number): number => registers[2 * register]!;
  if ((low(Reg.CR0) & CR0_PG) === 0) return 0;
  if ((low(Reg.EFER) & EFER_LMA) !== 0) return (low(Reg.CR4) & CR4_LA57) !== 0 ? 5 : 4;
  return (low(Reg.CR4) & CR4_PAE) !== 0 ? 3 : 2;
}

function nestsPaging(registers: Uint32Array): boolean {
  const mode = registers[2 * Reg.GUEST_MODE]!;
  if (mode === GuestMode.VMX) return (registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_EPT) !== 0;
  return mode === GuestMode.SVM && (registers[2 * Reg.NESTED_CONTROL]! & NESTED_NP_ENABLE) !== 0;
}
