/** `rewalk mutants`: the historical bugs that `rewalk replay --mutant` puts in. */

import { ExitStatus } from '../bits/problem.ts';
import { MUTANTS } from '../mmu/mutants.ts';
import { tableLines } from '../report/table.ts';
import { defineCommand, jsonOption } from './command.ts';

export const mutants = defineCommand({
  command: 'mutants',
  describe: 'List the historical bugs that replay --mutant can put into the emulated KVM',
  examples: [
    ['rewalk mutants', 'their names, and what goes wrong'],
    ['rewalk replay trace.rwt --machine kvm --mutant m11', 'a replay that must diverge'],
  ],
  positionals: {},
  options: jsonOption,
  run(_args, { out, json }) {
    if (json) out.json({ mutants: MUTANTS });
    else out.lines(tableLines(MUTANTS.map(({ name, sentence }) => [name, sentence])));
    return Promise.resolve(ExitStatus.MATCH);
  },
});
