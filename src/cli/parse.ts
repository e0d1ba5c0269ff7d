/**
 * From `argv` to a command to run. yargs does the parsing and the help; its errors become E_USAGE here, in our words,
 * and it never runs anything, prints anything or ends the process.
 */

import yargs from 'yargs';
import { Problem } from '../bits/problem.ts';
import { VERSION } from '../trace/version.ts';
import { COLOUR_MODES, type ColourMode } from './colour.ts';
import type { Command, Context } from './command.ts';
import { COMMANDS } from './commands.ts';
import { suggestion } from './suggest.ts';

export type Parsed =
  | { readonly kind: 'text'; readonly text: string }
  | {
      readonly kind: 'run';
      readonly color: ColourMode;
      readonly json: boolean;
      readonly run: (context: Context) => Promise<number>;
    };

/**
 * yargs drops a lone `-` and whatever follows `--` from a command's positionals. So those travel through it behind a
 * character that no argument can contain.
 */
const SHIELD = '\u0000';

function shielded(argv: readonly string[]): string[] {
  const end = argv.indexOf('--');
  const options = end < 0 ? argv : argv.slice(0, end);
  const operands = end < 0 ? [] : argv.slice(end + 1);
  return [...options.map((arg) => (arg === '-' ? SHIELD + arg : arg)), ...operands.map((arg) => SHIELD + arg)];
}

function bare(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll(SHIELD, '');
  return Array.isArray(value) ? value.map(bare) : value;
}

const GLOBAL_OPTIONS = {
  color: { choices: COLOUR_MODES, default: 'auto', requiresArg: true, describe: 'Colour (auto, always, never) [auto]' },
} as const;

/** Parses, or throws E_USAGE. Help and version come back as text. `columns`: width of the terminal, if there is one. */
export async function parse(argv: readonly string[], columns: number | undefined): Promise<Parsed> {
  let chosen: ((context: Context) => Promise<number>) | undefined;
  let output = '';
  let failure: Problem | undefined;
  const command = commandIn(argv);
  const parser = yargs()
    .scriptName('rewalk')
    .locale('en')
    .usage('rewalk <command>\n\nReplays recorded guest executions on an emulated nested x86 MMU.')
    .parserConfiguration({ 'parse-numbers': false, 'parse-positional-numbers': false, 'greedy-arrays': false })
    .strict()
    .exitProcess(false)
    .version(VERSION)
    .help()
    .wrap(Math.min(columns || 100, 120))
    .demandCommand(1, 'no command is given')
    .options(GLOBAL_OPTIONS)
    .epilogue('Each command explains itself: rewalk <command> --help')
    .fail((message, error) => {
      // Called once for the command and once more for the whole; the first says it best.
      failure ??= usageProblem(message || String(error), argv, command);
      throw failure;
    });
  // Choices and defaults stand in the descriptions; not in @types/yargs 17.
  (parser as unknown as { usageConfiguration(to: object): void }).usageConfiguration({ 'hide-types': true });
  for (const each of COMMANDS) {
    parser.command(
      each.module(
        (run) => {
          chosen = run;
        },
        (problem) => {
          failure ??= withHelp(problem, command);
        },
      ),
    );
  }
  parser.middleware((args) => {
    for (const key of Object.keys(args)) args[key] = bare(args[key]);
  }, true);
  checkBooleans(argv, command);
  const args = await parser.parseAsync(shielded(argv), {}, (_error: unknown, _args: unknown, text: string) => {
    output = text;
  });
  if (chosen === undefined) return { kind: 'text', text: output };
  return { kind: 'run', color: args.color, json: args['json'] === true, run: chosen };
}

/** The command that the arguments name: the first of them that is neither an option nor a global option's value. */
function commandIn(argv: readonly string[]): Command | undefined {
  const name = argv.find((arg, i) => !arg.startsWith('-') && argv[i - 1] !== '--color');
  return COMMANDS.find((command) => command.name === name);
}

/** The problem with a way to help, if it has none of its own. */
function withHelp(problem: Problem, command: Command | undefined): Problem {
  const help = command === undefined ? 'rewalk --help' : `rewalk ${command.name} --help`;
  return problem.remedy !== undefined
    ? problem
    : new Problem(problem.code, problem.message, problem.place, `see \`${help}\``);
}

/** yargs takes `--json=3` for false; a switch with a value other than true and false is a mistake. */
function checkBooleans(argv: readonly string[], command: Command | undefined): void {
  for (const arg of argv) {
    if (arg === '--') return;
    const [, name, value] = /^--([^=]+)=(.*)$/s.exec(arg) ?? [];
    if (name === undefined || command?.options[name]?.type !== 'boolean' || value === 'true' || value === 'false')
      continue;
    throw new Problem('E_USAGE', `--${name} takes no value, but ${JSON.stringify(value)} is given`);
  }
}

/** yargs' message in our words. Its locale is fixed, so the patterns hold; what matches none is passed on. */
function usageProblem(message: string, argv: readonly string[], command: Command | undefined): Problem {
  const text = message
    .replaceAll(SHIELD, '')
    .replace(/\s*\n\s*/g, ' ')
    .trim();
  const problem = (sentence: string, remedy?: string): Problem =>
    withHelp(new Problem('E_USAGE', sentence, {}, remedy), command);
  const unknown = /^Unknown (?:argument|command)s?: (.*)$/.exec(text)?.[1];
  if (unknown !== undefined) return unknownArgument(unknown.split(', '), argv, command, problem);
  const missing = /^Not enough non-option arguments/.test(text);
  if (missing) return problem(`an argument is missing for \`rewalk ${command?.name ?? '<command>'}\``);
  const required = /^Missing required arguments?: (.*)$/.exec(text)?.[1];
  if (required !== undefined) return problem(`--${required.replaceAll(', ', ', --')} has to be given`);
  const valueless = /^Not enough arguments following: (.*)$/.exec(text)?.[1];
  if (valueless !== undefined) return problem(`--${valueless} needs a value`);
  const choice = /^Invalid values: Argument: (\S+), Given: (.*), Choices: (.*)$/.exec(text);
  if (choice !== null) {
    const [, name = '', given = '', choices = ''] = choice;
    return problem(`--${name} ${given}: expected one of ${choices.replaceAll('"', '')}`);
  }
  return problem(text);
}

function unknownArgument(
  keys: readonly string[],
  argv: readonly string[],
  command: Command | undefined,
  problem: (sentence: string, remedy?: string) => Problem,
): Problem {
  // An option appears a second time in camel case; the user wrote one of them.
  const written =
    keys.find((key) => argv.some((arg) => arg.replace(/^-+/, '').replace(/=.*$/s, '') === key)) ?? keys[0] ?? '';
  const isOption = argv.some((arg) => /^-/.test(arg) && arg.replace(/^-+/, '').replace(/=.*$/s, '') === written);
  if (isOption) {
    const name = `${written.length === 1 ? '-' : '--'}${written}`;
    const known = [...Object.keys(command?.options ?? {}), ...Object.keys(GLOBAL_OPTIONS), 'help', 'version'];
    const near = suggestion(written, known);
    const sentence = `unknown option ${name}${command === undefined ? '' : ` for \`rewalk ${command.name}\``}`;
    return near === undefined ? problem(sentence) : problem(sentence, `did you mean --${near}?`);
  }
  if (command !== undefined)
    return problem(`unexpected argument ${JSON.stringify(written)} for \`rewalk ${command.name}\``);
  const near = suggestion(
    written,
    COMMANDS.map(({ name }) => name),
  );
  const sentence = `unknown command ${JSON.stringify(written)}`;
  return near === undefined ? problem(sentence) : problem(sentence, `did you mean \`rewalk ${near}\`?`);
}
