/** Where importers put what they read: one header, then runs of steps. */

import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';

export interface StepSink {
  /** Called once, before any steps. */
  header(header: TraceHeader): void;
  /** Called with steps in order; ordinals continue from run to run. */
  steps(columns: StepColumns): void;
}
