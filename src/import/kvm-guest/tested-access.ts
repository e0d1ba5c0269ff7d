/**
 * Accesses under test: from the mark that announces one, over exits that the guest's hypervisor takes meanwhile, to the
 * line that tells the result.
 */

import { Problem } from '../../bits/problem.ts';
import { Obs } from '../../formats/observation.ts';
import { EFER_LMA, Reg } from '../../formats/registers.ts';
import type { AccessContext, Component } from './access-kinds.ts';
import { componentsOf } from './access-kinds.ts';
import {
  type AccessResult,
  type Announcement,
  type Attempt,
  asReported,
  componentOfExit,
  componentOfPageFault,
  pushedWord,
  ReportedVector,
  type SecondStageExit,
  writeComponents,
  writeUnknownExit,
} from './attempt.ts';
import type { StepWriter } from './step-writer.ts';

export class TestedAccesses {
  private readonly writer: StepWriter;
  private readonly splitsRmw: boolean;
  /** Base of the GDT, as the last dump shows it. */
  gdtBase: bigint | undefined;
  private attempt: Attempt | undefined;
  /** The exception of the access is being delivered: further exits are not its own. */
  private delivering = false;
  private afterwards: (() => void) | undefined;

  constructor(writer: StepWriter, splitsRmw: boolean) {
    this.writer = writer;
    this.splitsRmw = splitsRmw;
  }

  /** An access whose mark is followed by no result of its own. */
  private get quiet(): boolean {
    return this.afterwards !== undefined;
  }

  /** `afterwards`: called once when the result has been written. */
  begin(announcement: Announcement, result: AccessResult | undefined, afterwards?: () => void): void {
    const { line, access, va } = announcement;
    const longMode = this.writer.registers.has(Reg.EFER, EFER_LMA);
    const context: AccessContext = {
      wordLength: longMode ? 8 : 4,
      splitsRmw: this.splitsRmw,
      gdtBase: this.gdtBase,
    };
    const components = componentsOf(access, va, context);
    if (components === undefined) {
      throw new Problem('E_IMPORT', `unknown kind of access: ${access}`, { line });
    }
    this.attempt = { ...announcement, components, result, told: false };
    this.delivering = false;
    this.afterwards = afterwards;
  }

  /** Ends an access that has no mark for its end: whatever comes next shows that it is over. */
  finishQuiet(line: number): void {
    if (this.quiet) this.finish(line);
  }

  /** Writes what is left to tell of the access under way: nothing, if an exit told it. */
  finish(line: number): void {
    const { attempt } = this;
    if (attempt === undefined) return;
    this.tell(attempt, line);
    this.afterwards?.();
    this.attempt = undefined;
    this.delivering = false;
    this.afterwards = undefined;
  }

  private tell(attempt: Attempt, line: number): void {
    if (attempt.told) return;
    attempt.told = true;
    const { result } = attempt;
    const completed = () => this.writer.observe(Obs.COMPLETED, 0n, 0n);
    if (result === undefined) {
      writeComponents(this.writer, attempt, undefined, () => undefined);
      return;
    }
    if (result.vector === undefined) {
      writeComponents(this.writer, attempt, undefined, completed);
      return;
    }
    if (result.vector >= ReportedVector.VMFUNC) {
      throw new Problem('E_IMPORT', 'the result of an access is an exit that the log does not tell of', { line });
    }
    const failing = this.failing(attempt, result, line);
    if (failing === undefined) return;
    writeComponents(this.writer, attempt, failing, completed);
    this.writer.observeException(result.vector, result.errorCode, result.cr2);
  }

  /** The component that raised the exception; `undefined` for an instruction that raises it without memory. */
  private failing(attempt: Attempt, result: AccessResult, line: number): Component | undefined {
    const { components } = attempt;
    switch (result.vector) {
      case 14: {
        const found = componentOfPageFault(attempt, result.errorCode, result.cr2);
        if (found !== undefined) return found;
        if (attempt.access === 'x') {
          const longMode = this.writer.registers.has(Reg.EFER, EFER_LMA);
          return pushedWord(result.cr2, longMode ? 8 : 4);
        }
        throw new Problem('E_IMPORT', `a page fault at an address that ${attempt.access} does not touch`, { line });
      }
      case 6:
        // KVM's emulator turns a fetch that faults into #UD.
        return components.find((c) => c.software);
      case 13:
        return components[0];
      default:
        throw new Problem('E_IMPORT', `an access ended with vector ${result.vector}`, { line });
    }
  }

  /** The exception of the access under way is being delivered when the hypervisor's next exit happens. */
  delivery(line: number): void {
    if (this.attempt === undefined) return;
    this.tell(this.attempt, line);
    this.delivering = true;
  }

  /** The hypervisor has mended what made the last attempt fail: the access starts over. */
  mended(): void {
    if (this.attempt !== undefined && !this.delivering) this.attempt.told = false;
  }

  /** An EPT violation, EPT misconfiguration or nested page fault reached the hypervisor. */
  secondStageExit(exit: SecondStageExit, kind: 'violation' | 'misconfig' | 'npf'): void {
    const { writer, attempt } = this;
    const component = attempt === undefined || this.delivering ? undefined : componentOfExit(attempt, exit);
    if (attempt === undefined || component === undefined) {
      writeUnknownExit(writer, exit, this.delivering);
    } else {
      const reported = asReported(component, exit);
      const components = attempt.components.map((c) => (c === component ? reported : c));
      writeComponents(writer, { ...attempt, components }, reported, () => writer.observe(Obs.COMPLETED, 0n, 0n));
      attempt.told = true;
    }
    if (kind === 'npf') writer.observe(Obs.NPF, exit.gpa, exit.info);
    else if (kind === 'violation') writer.observe(Obs.EPT_VIOLATION, exit.gpa, exit.info);
    else writer.observe(Obs.EPT_MISCONFIG, exit.gpa, 0n);
    if (this.quiet) this.finish(writer.line);
  }

  /** The hypervisor intercepted a #PF. */
  pageFaultExit(errorCode: bigint, cr2: bigint, line: number): void {
    const { writer, attempt } = this;
    const component = attempt === undefined ? undefined : componentOfPageFault(attempt, errorCode, cr2);
    if (attempt === undefined || component === undefined) {
      throw new Problem('E_IMPORT', 'a page fault of no announced access was intercepted', { line });
    }
    writeComponents(writer, attempt, component, () => writer.observe(Obs.COMPLETED, 0n, 0n));
    writer.observeException(14, errorCode, cr2);
    attempt.told = true;
  }
}
