/** The command line in this process, with streams that remember; and small traces to run it on. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll } from 'vitest';
import type { Io, TextStream } from '../../src/cli/io.ts';
import { run } from '../../src/cli/run.ts';

export const folder = mkdtempSync(join(tmpdir(), 'rewalk-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Writes a file under the test's folder. Returns its path. */
export function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

export function emptyFolder(name: string): string {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  return path;
}

export interface Result {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A stream that keeps what is written. */
export function captured(overrides: Partial<TextStream> = {}): TextStream & { text: string } {
  const stream = {
    text: '',
    isTTY: false,
    write(text: string): boolean {
      stream.text += text;
      return true;
    },
    once: () => undefined,
    on: () => undefined,
    ...overrides,
  };
  return stream;
}

/** Runs `rewalk …argv`. */
export async function rewalk(...argv: string[]): Promise<Result> {
  return rewalkWith({}, ...argv);
}

export async function rewalkWith(io: Partial<Io>, ...argv: string[]): Promise<Result> {
  const stdout = captured();
  const stderr = captured();
  const signal = new AbortController().signal;
  const status = await run(argv, { stdout, stderr, env: {}, signal, ...io });
  return { status, stdout: stdout.text, stderr: stderr.text };
}

/** A case in the text form: 4-level paging, a user write that goes through, one that faults, an invalidation. */
export const CASE = [
  '{"header":{"title":"two writes","processor":{"vendor":"intel","maxphyaddr":40},"observable":["element","entry-write","translated","exception"],"sources":[{"name":"case.txt"}]}}',
  '{"state":{"cr0":"0x80010001","cr3":"0x1000","cr4":"0x20","efer":"0xd00"}}',
  '{"note":"begin \\u001b[31mred"}',
  '{"store":"0x1000","value":"0x2027"}',
  '{"store":"0x2000","value":"0x3027"}',
  '{"store":"0x3000","value":"0x4027"}',
  '{"store":"0x4008","value":"0x5027","provenance":"mark"}',
  '{"access":"write","address":"0x1040","user":true,"length":8,"expect":[{"element":"0x1000","level":4,"value":"0x2027"},{"element":"0x2000","level":3,"value":"0x3027"},{"element":"0x3000","level":2,"value":"0x4027"},{"element":"0x4008","level":1,"value":"0x5027"},{"entry-write":"0x4008","level":1,"value":"0x5067"},{"translated":"0x5040","page":"4k","guestPhysical":"0x5040"}]}',
  '{"access":"read","address":"0x2040","user":true,"line":9,"expect":[{"exception":"#PF","error":"0x4","cr2":"0x2040"}]}',
  '{"invlpg":"0x1000"}',
  '{"access":"read","address":"0x1040","physical":"0x5040"}',
].join('\n');

let cases = 0;

/** `CASE` as a packed trace. */
export async function packedCase(...options: string[]): Promise<string> {
  const text = file(`case${cases}.jsonl`, CASE);
  const packed = join(folder, `case${cases++}.rwt`);
  const { status, stderr } = await rewalk('convert', text, '-o', packed, ...options);
  if (status !== 0) throw new Error(stderr);
  return packed;
}
