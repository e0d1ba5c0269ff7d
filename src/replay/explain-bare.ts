/** The bare machine's part of an explanation: its walks of a step, and what they are set up for. */

import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import type { PageWalk } from '../paging/page-walk.ts';
import type { TraceHeader } from '../trace/header.ts';
import { hardwareWalks } from './explain-hardware.ts';
import type { HardwareView } from './explain-hardware-nodes.ts';
import { contextsIn } from './explain-walks.ts';
import type { ExplainedContext, ExplainedWalk } from './explanation.ts';
import type { Row } from './result.ts';

function viewOf(bare: BareMachine, processor: TraceHeader['processor']): HardwareView {
  const { vendor, maxphyaddr, eptVpidCap } = processor;
  return {
    cpuWalk: bare.cpuWalk,
    tdpWalk: bare.tdpWalk,
    registers: bare.registers,
    maxphyaddr,
    vendor: vendor === 'unknown' ? undefined : vendor,
    executeOnly: (eptVpidCap.lo & 1) !== 0,
    first: 'cpuWalk',
    second: 'tdpWalk',
    sptes: undefined,
    config: undefined,
  };
}

/** The walks of the step that wrote `rows`, the machine still being as it left it. */
export function bareWalks(
  bare: BareMachine,
  processor: TraceHeader['processor'],
  rows: readonly Row[],
  op: number,
  lo: number,
  hi: number,
): ExplainedWalk[] {
  const kind = op & STEP_KIND_MASK;
  if (kind !== StepKind.ACCESS && kind !== StepKind.GPA_ACCESS) return [];
  const title = kind === StepKind.ACCESS ? 'the processor' : 'the processor, a guest-physical address';
  return hardwareWalks(rows, viewOf(bare, processor), op, lo, hi, title, bare.servedByTlb);
}

export function bareContexts(bare: BareMachine, walks: readonly ExplainedWalk[]): ExplainedContext[] {
  const used = contextsIn(walks);
  const { cpuWalk, tdpWalk } = bare;
  const levels = (walk: PageWalk): string => (walk.rootLevel === 0 ? 'no paging' : `${walk.rootLevel} levels`);
  const second =
    tdpWalk === null
      ? 'not in use'
      : `${tdpWalk.ept ? 'EPT' : 'NPT'}, ${levels(tdpWalk)}${tdpWalk.ad ? '' : ', no A and D bits'}`;
  const through = tdpWalk === null ? '' : ', each address through tdpWalk';
  return [
    { context: 'cpuWalk', state: `CR3's tables, ${levels(cpuWalk)}${through}`, used: used.has('cpuWalk') },
    { context: 'tdpWalk', state: second, used: used.has('tdpWalk') },
  ];
}
