/**
 * Every command, in the order of `rewalk --help`. A command's file holds its options and little else: what it needs to
 * work is imported when it runs, so that `rewalk --help` is quick.
 *
 * A new command is a `defineCommand` in a file of its own, and an import and a place in the list here.
 */

import { accept } from './accept.ts';
import { bench } from './bench.ts';
import { bisect } from './bisect.ts';
import { check } from './check.ts';
import type { Command } from './command.ts';
import { compare } from './compare.ts';
import { convert } from './convert.ts';
import { decode } from './decode.ts';
import { explain } from './explain.ts';
import { generate } from './generate.ts';
import { importCommand } from './import.ts';
import { minimise } from './minimise.ts';
import { mutants } from './mutants.ts';
import { recover } from './recover.ts';
import { replay } from './replay.ts';
import { stats } from './stats.ts';
import { view } from './view.ts';

export const COMMANDS: readonly Command[] = [
  replay,
  compare,
  accept,
  explain,
  minimise,
  bisect,
  view,
  stats,
  mutants,
  decode,
  check,
  recover,
  importCommand,
  convert,
  generate,
  bench,
];
