/** Steps explained for the page that a replay or a comparison leaves. */

import { Problem } from '../bits/problem.ts';
import type { Explanation } from '../replay/explanation.ts';
import type { Context } from './command.ts';
import type { ExplainTraceOptions } from './explain-trace.ts';
import { Interrupted } from './io.ts';

export type ExplainChoice = Pick<ExplainTraceOptions, 'sides' | 'machine' | 'internals' | 'expectations'>;

/** Explains steps of a file's segment. Undefined for what comes through a pipe: it is there only once. */
export function explainerOf(
  file: string,
  segment: number,
  choice: ExplainChoice,
  context: Context,
): ((step: number) => Promise<Explanation | undefined>) | undefined {
  if (file === '-' || file === '<stdin>') return undefined;
  return async (step) => {
    const { explanationOf } = await import('./explain-trace.ts');
    try {
      return await explanationOf(file, step, { ...choice, segment, all: false, html: undefined }, context);
    } catch (error) {
      if (error instanceof Interrupted) throw error;
      // The divergence is reported all the same: what cannot be read or modelled has been told of.
      if (error instanceof Problem) return undefined;
      throw error;
    }
  };
}
