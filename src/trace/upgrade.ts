/**
 * The one place where files of older formats become files of today's: the rest of the code knows only the newest.
 *
 * Version 1: the first.
 *
 * A new version adds its number to the list above, a step to `upgradeHeader` or `upgradeSteps`, and a fixture of the
 * version before it to `test/trace/fixtures`, which stays readable for ever.
 */

import type { StepColumns } from './columns.ts';
import { FORMAT_VERSION, type TraceHeader } from './header.ts';

/** The header as today's writer would have written it. */
export function upgradeHeader(header: TraceHeader): TraceHeader {
  return header.formatVersion === FORMAT_VERSION ? header : { ...header, formatVersion: FORMAT_VERSION };
}

/** The columns as today's writer would have written them; `version` is the file's. */
export function upgradeSteps(columns: StepColumns, _version: number): StepColumns {
  return columns;
}
