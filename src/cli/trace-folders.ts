/** What two folders are compared by: the traces and recordings in each, by their names below it. */

import { type Dirent, existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Problem } from '../bits/problem.ts';
import { ioProblem } from '../trace/input.ts';
import { isRecording } from './import-formats.ts';

/** Paths by name below the folder, in code-unit order of the names. */
export type TraceFolder = ReadonlyMap<string, string>;

const TRACE = /\.(?:rwt|jsonl)$/;

/** Whether a path is a folder that is not itself a recording, which would be one trace. */
function isFolderOfTraces(path: string): boolean {
  if (path === '-') return false;
  try {
    return statSync(path).isDirectory() && !isRecording(path);
  } catch {
    // Whoever opens it says what is wrong.
    return false;
  }
}

/** Hidden entries, linked folders and what neither is a trace nor known to an importer are left alone. */
function collect(folder: string, prefix: string, found: Map<string, string>): void {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    throw ioProblem(error, folder, 'read the folder');
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const [path, name] = [join(folder, entry.name), `${prefix}${entry.name}`];
    if (entry.isDirectory()) {
      if (isRecording(path)) found.set(name, path);
      else collect(path, `${name}/`, found);
    } else if (isFile(path) && (TRACE.test(name) || isRecording(path))) found.set(name, path);
  }
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Throws E_NO_TRACES for a folder without any, E_IO. */
function tracesOf(folder: string): TraceFolder {
  const found = new Map<string, string>();
  collect(folder, '', found);
  if (found.size > 0) return found;
  throw new Problem(
    'E_NO_TRACES',
    'the folder holds no trace (*.rwt, *.jsonl) and no recording that can be imported',
    { file: folder },
    '`rewalk import --help` has what can be imported',
  );
}

/**
 * The traces of two folders, undefined if neither is one. Throws E_USAGE for a folder and something else, E_NO_TRACES,
 * E_NO_SUCH_FILE and E_IO.
 */
export function traceFolders(a: string, b: string): readonly [a: TraceFolder, b: TraceFolder] | undefined {
  const folders = [a, b].filter(isFolderOfTraces);
  const [x, y] = folders.map(tracesOf);
  if (x === undefined) return undefined;
  if (y !== undefined) return [x, y];
  const other = a === folders[0] ? b : a;
  if (other !== '-' && !existsSync(other))
    throw new Problem('E_NO_SUCH_FILE', 'no such file or folder', { file: other });
  throw new Problem(
    'E_USAGE',
    'a folder of traces is compared with another folder, name by name',
    { file: folders[0]! },
    'name the trace in it that is meant, or two folders',
  );
}
