/** What a command is: its line, its options as typed data, examples, and what it does. */

import type { CommandModule, InferredOptionTypes, Options, PositionalOptions } from 'yargs';
import { Problem } from '../bits/problem.ts';
import type { Paint } from './colour.ts';
import type { Io } from './io.ts';
import type { Progress } from './progress.ts';
import type { ResultOutput } from './result-output.ts';

/** What a command gets to work with. */
export interface Context {
  readonly io: Io;
  /** Standard output. Nothing but the result goes there. */
  readonly out: ResultOutput;
  /** `--json`. */
  readonly json: boolean;
  /** Styles for standard output. */
  readonly paint: Paint;
  /** Tells of a problem that does not end the command, e.g. of one trace out of many. */
  problem(problem: Problem): void;
  /** A note on standard error for people; not with `--json`. */
  note(text: string): void;
  /** To be awaited about once per chunk: flushes output at the reader's pace, and lets SIGINT and SIGTERM in. */
  breathe(): Promise<void>;
  progress(text: string): Promise<Progress>;
}

type OptionData = Readonly<Record<string, Options>>;
type PositionalData = Readonly<Record<string, PositionalOptions & { readonly array?: boolean }>>;

export interface CommandSpec<Positionals extends PositionalData, CommandOptions extends OptionData> {
  /** The yargs command line, e.g. `view <traces..>`. */
  readonly command: string;
  readonly describe: string;
  /** Command line and what it does. At least one. */
  readonly examples: readonly [readonly [string, string], ...(readonly [string, string])[]];
  readonly positionals: Positionals;
  readonly options: CommandOptions;
  /** Returns the exit status. Throws `Problem` for what ends the command. */
  readonly run: (args: InferredOptionTypes<Positionals & CommandOptions>, context: Context) => Promise<number>;
}

export interface Command {
  readonly name: string;
  readonly options: OptionData;
  /**
   * For yargs. The handler does not run the command but calls `chosen`, so that yargs never sees its errors. What is
   * wrong with an option's value goes to `refused`, since yargs keeps nothing of an error but its message.
   */
  module(
    chosen: (run: (context: Context) => Promise<number>) => void,
    refused: (problem: Problem) => void,
  ): CommandModule;
}

/** `--json`, for commands that have it. */
export const jsonOption = {
  json: { type: 'boolean', default: false, describe: 'Print JSON' },
} as const satisfies OptionData;

/** `--bisect`, for commands that `git bisect run` can run; the statuses are `run.ts`'s business. */
export const bisectOption = {
  bisect: {
    type: 'boolean',
    default: false,
    describe: 'Exit statuses for git bisect run: 125, which skips a commit, in place of 3 and 4',
  },
} as const satisfies OptionData;

/** The option with its `coerce` telling of what it throws. */
function watched(data: Options, refused: (problem: Problem) => void): Options {
  const { coerce } = data;
  if (coerce === undefined) return data;
  return {
    ...data,
    coerce: (value: unknown) => {
      try {
        return coerce(value) as unknown;
      } catch (error) {
        if (error instanceof Problem) refused(error);
        throw error;
      }
    },
  };
}

/** The words of an option with its choices and default, which yargs would print less legibly. */
function described<Data extends Options | PositionalOptions>(data: Data): Data {
  const parts = [data.describe ?? ''];
  if (data.choices !== undefined) parts.push(`(${data.choices.join(', ')})`);
  if (data.default !== undefined && data.default !== false) parts.push(`[${String(data.default)}]`);
  return { ...data, describe: parts.join(' ') };
}

export function defineCommand<const Positionals extends PositionalData, const CommandOptions extends OptionData>(
  spec: CommandSpec<Positionals, CommandOptions>,
): Command {
  return {
    name: spec.command.split(' ')[0] ?? '',
    options: spec.options,
    module: (chosen, refused) => ({
      command: spec.command,
      describe: spec.describe,
      builder: (yargs) => {
        for (const [name, data] of Object.entries(spec.positionals)) yargs.positional(name, described(data));
        for (const [name, data] of Object.entries(spec.options)) {
          yargs.option(name, described(watched({ requiresArg: data.type !== 'boolean', ...data }, refused)));
        }
        for (const [line, what] of spec.examples) yargs.example(line, what);
        return yargs;
      },
      handler: (args) => {
        // yargs has checked the arguments against the very data that their type is inferred from.
        chosen((context) => spec.run(args as unknown as InferredOptionTypes<Positionals & CommandOptions>, context));
      },
    }),
  };
}
