/** `rewalk bench`: how fast decoding, TLB hits, 2-D walks and the emulated KVM are here and now, as rates and as ratios of one run. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ExitStatus } from '../bits/problem.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneText, wholeNumber } from './option-values.ts';

/** The corpus's real workload, if rewalk runs from its repository. */
const HITS = fileURLToPath(new URL('../../traces/walklog/hits-access.rwt', import.meta.url));

export const bench = defineCommand({
  command: 'bench',
  describe: 'Measure decoding, replay of TLB hits, 2-D walks and the emulated KVM',
  examples: [
    ['rewalk bench', 'rates on this machine'],
    ['rewalk bench --native', 'and the ratio to a C walker over the same tables (needs a C compiler)'],
  ],
  positionals: {},
  options: {
    trace: { type: 'string', coerce: oneText('--trace'), describe: 'Trace to decode and replay [hits-access]' },
    native: { type: 'boolean', default: false, describe: 'Compile and run the native walker, too' },
    rounds: {
      type: 'string',
      coerce: wholeNumber('--rounds', 1, 100),
      describe: 'Rounds, of which the best counts [5]',
    },
    ...jsonOption,
  },
  async run(args, context) {
    const { measureTrace, measureWalks } = await import('../bench/measure.ts');
    const { measureKvm } = await import('../bench/kvm.ts');
    const { benchLines } = await import('../report/bench-text.ts');
    const rounds = args.rounds ?? 5;
    const path = args.trace ?? (existsSync(HITS) ? HITS : undefined);
    const progress = await context.progress('measuring 2-D walks');
    try {
      const walks = measureWalks(rounds, args.native);
      await context.breathe();
      progress.update(() => 'measuring the emulated KVM');
      const kvm = measureKvm(rounds);
      await context.breathe();
      progress.update(() => 'measuring decoding and replay');
      const trace = path === undefined ? undefined : measureTrace(path, rounds);
      if (context.json) context.out.json({ walks, kvm, trace });
      else context.out.lines(benchLines(walks, kvm, trace));
      if (path === undefined) context.note('no trace to decode and replay: name one with --trace');
    } finally {
      progress.done();
    }
    return ExitStatus.MATCH;
  },
});
