/** Trace arguments: files, folders, patterns and `-`, as one list of files in an order that does not vary. */

import { type Dirent, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Problem } from '../bits/problem.ts';
import { errorCode, ioProblem } from '../trace/input.ts';
import { globMatches, hasMagic } from './glob.ts';

/** How files in folders are known to be traces: packed, and the text form. */
const EXTENSIONS = ['.rwt', '.jsonl'];

/** The positional that commands over traces share. */
export const tracesPositional = {
  traces: {
    type: 'string',
    array: true,
    demandOption: true,
    describe: 'Traces, folders of them, patterns, - for a pipe',
  },
} as const;

type FileKind = 'file' | 'folder' | undefined;

/** What a path is; `undefined` if nothing. Pipes and devices count as files. */
function kindOf(path: string): FileKind {
  try {
    return statSync(path).isDirectory() ? 'folder' : 'file';
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return undefined;
    throw ioProblem(error, path, 'open it');
  }
}

/** Code-unit order: the same everywhere, whatever the locale. */
function byName(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Every trace under a folder. Hidden entries and linked folders are left alone. */
function tracesIn(folder: string): string[] {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    throw ioProblem(error, folder, 'read the folder');
  }
  const found: string[] = [];
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) found.push(...tracesIn(path));
    else if (EXTENSIONS.some((extension) => entry.name.endsWith(extension)) && kindOf(path) === 'file')
      found.push(path);
  }
  return found.sort(byName);
}

function filesOf(argument: string): string[] {
  if (argument === '-') return ['-'];
  const kind = kindOf(argument);
  if (kind === 'file') return [argument];
  const place = { file: argument };
  if (kind === 'folder') {
    const found = tracesIn(argument);
    if (found.length > 0) return found;
    const sentence = `the folder holds no trace (${EXTENSIONS.map((extension) => `*${extension}`).join(', ')})`;
    throw new Problem('E_NO_TRACES', sentence, place, 'name the file if it is one under another name');
  }
  if (!hasMagic(argument)) throw new Problem('E_NO_SUCH_FILE', 'no such file or folder', place);
  const found = globMatches(argument).flatMap((path) => (kindOf(path) === 'folder' ? tracesIn(path) : [path]));
  if (found.length === 0) throw new Problem('E_NO_TRACES', 'the pattern matches no trace', place);
  return found.sort(byName);
}

/**
 * The files that the arguments name: argument by argument, sorted within each, each file once.
 *
 * Throws E_NO_SUCH_FILE, E_NO_TRACES for an empty folder or a pattern without a match, E_IO, E_USAGE for a second `-`.
 */
export function traceFiles(args: readonly string[]): string[] {
  if (args.filter((argument) => argument === '-').length > 1) {
    throw new Problem('E_USAGE', 'standard input (-) can be read only once');
  }
  return [...new Set(args.flatMap(filesOf))];
}
