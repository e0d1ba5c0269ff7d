import { describe, expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.ts';
import { rewalk, rewalkWith } from './cli.ts';

describe('help and version', () => {
  test('--help lists every command on standard output', async () => {
    const { status, stdout, stderr } = await rewalk('--help');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    for (const { name } of COMMANDS) expect(stdout).toMatch(new RegExp(`^  rewalk ${name}\\b`, 'm'));
  });

  test.each(COMMANDS.map(({ name }) => name))('%s --help has an example', async (name) => {
    const { status, stdout } = await rewalk(name, '--help');
    expect(status).toBe(0);
    expect(stdout).toMatch(new RegExp(`Examples:\\n  rewalk ${name} `));
  });

  test('--version is the package version', async () => {
    const { status, stdout } = await rewalk('--version');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe('a mistake in the arguments is status 2, one message, nothing on standard output', () => {
  const cases: [string, string[], string[]][] = [
    ['no command', [], ['no command is given', 'rewalk --help']],
    ['an unknown command', ['chekc'], ['unknown command "chekc"', 'did you mean `rewalk check`?']],
    ['an unknown command like none', ['xyzzyxyzzy'], ['unknown command "xyzzyxyzzy"', 'rewalk --help']],
    ['an unknown option', ['view', 'a.rwt', '--limt', '3'], ['unknown option --limt', 'did you mean --limit?']],
    ['an unknown camel-cased option', ['decode', 'pfec', '1', '--execute-onl'], ['--execute-onl ', '--execute-only?']],
    ['an unknown short option', ['view', 'a.rwt', '-z'], ['unknown option -z', 'rewalk view --help']],
    ['a missing argument', ['view'], ['an argument is missing', 'rewalk view --help']],
    ['too many arguments', ['recover', 'a', 'b', '-o', 'c'], ['unexpected argument "b"']],
    ['a missing value', ['view', 'a.rwt', '--limit'], ['--limit needs a value']],
    ['a value for a switch', ['view', 'a.rwt', '--json=3'], ['--json takes no value', '"3"']],
    [
      'a word for a number',
      ['view', 'a.rwt', '--limit', 'ten'],
      ['--limit "ten"', 'whole number of 1 or more', 'rewalk view --help'],
    ],
    [
      'a global option before the command',
      ['--color', 'never', 'view', 'a.rwt', '--limt', '3'],
      ['--limt', '--limit?'],
    ],
    ['a number out of range', ['decode', 'pte', '1', '--level', '6'], ['--level "6"', 'from 1 to 5']],
    ['a choice that is none', ['view', 'a.rwt', '--color', 'red'], ['--color "red"', 'auto, always, never']],
    ['an option given twice', ['view', 'a.rwt', '--limit', '1', '--limit', '2'], ['--limit is given more than once']],
    ['a missing option', ['recover', 'a.rwt'], ['output']],
    ['options that exclude each other', ['view', 'a.rwt', '--entry', '1', '--gfn', '1'], ['entry', 'gfn']],
    ['a kind that is none', ['view', 'a.rwt', '--kind', 'acess'], ['--kind "acess"', 'did you mean access?']],
    ['an address that is none', ['view', 'a.rwt', '--gva', '0xzz'], ['--gva "0xzz"', 'hexadecimal']],
    ['an empty range', ['view', 'a.rwt', '--gva', '0x20..0x10'], ['the range is empty']],
  ];
  test.each(cases)('%s', async (_name, argv, texts) => {
    const { status, stdout, stderr } = await rewalk(...argv);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(/^rewalk: E_USAGE: /);
    expect(stderr.match(/^rewalk: /gm)).toHaveLength(1);
    for (const text of texts) expect(stderr).toContain(text);
  });

  test('with --json the message is one line of JSON', async () => {
    const { status, stdout, stderr } = await rewalk('stats', 'a.rwt', '--sume', '--json');
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(JSON.parse(stderr)).toEqual({
      error: {
        code: 'E_USAGE',
        message: 'unknown option --sume for `rewalk stats`',
        place: {},
        remedy: 'did you mean --sum?',
        exitStatus: 2,
      },
    });
  });

  test('help in a message or an argument cannot steer the terminal', async () => {
    const { stderr } = await rewalk('\u001b[2Jview');
    expect(stderr).not.toContain('\u001b');
  });
});

describe('arguments that yargs would take for something else', () => {
  test('what follows -- is an argument, whatever it begins with', async () => {
    const { status, stderr } = await rewalk('view', '--', '--limit');
    expect(status).toBe(3);
    expect(stderr).toContain('E_NO_SUCH_FILE: no such file or folder (--limit)');
  });

  test('a word that looks like a number stays as it is written', async () => {
    const { stderr } = await rewalk('view', '0x10');
    expect(stderr).toContain('(0x10)');
  });
});

describe('a bug in rewalk', () => {
  const broken = {
    write: () => {
      throw new TypeError('x is not a function');
    },
    once: () => undefined,
    on: () => undefined,
  };

  test('is told as one, with status 70 and where to look', async () => {
    const { status, stderr } = await rewalkWith({ stdout: broken }, '--version');
    expect(status).toBe(70);
    expect(stderr).toContain('this is a bug in rewalk: TypeError: x is not a function');
    expect(stderr).toContain('REWALK_DEBUG=1');
    expect(stderr).not.toContain('at ');
  });

  test('has its stack printed with REWALK_DEBUG=1', async () => {
    const { stderr } = await rewalkWith({ stdout: broken, env: { REWALK_DEBUG: '1' } }, '--version');
    expect(stderr).toMatch(/^ {4}at /m);
  });
});
