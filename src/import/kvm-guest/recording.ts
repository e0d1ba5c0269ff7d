/** One guest's recording as it lies in a folder: the marks of its log and the dumps that the log names, all read. */

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Problem } from '../../bits/problem.ts';
import type { Source } from '../../trace/header.ts';
import { type Dump, DumpReader } from './dump.ts';
import { readGzipLines } from './log-lines.ts';
import { type Mark, parseMark } from './marks.ts';

export interface GuestRecording {
  /** Path of the log. */
  readonly log: string;
  readonly marks: readonly Mark[];
  /** By the name that a DUMP mark gives. */
  readonly dumps: ReadonlyMap<string, Dump>;
  /** The log first. */
  readonly sources: readonly Source[];
  readonly kvmParameters: string;
  readonly commandLine: string;
  /** One of several guests that ran at once, on several processors. */
  readonly together: boolean;
}

/** Reads `folder`. `vm`: which guest, for a folder that holds several (`vm1` for `vm1_vmm.log.gz`). */
export async function readRecording(folder: string, vm: string | undefined): Promise<GuestRecording> {
  const prefix = vm === undefined ? '' : `${vm}_`;
  const log = join(folder, `${prefix}vmm.log.gz`);
  if (!existsSync(log)) {
    const several = vm === undefined && existsSync(join(folder, 'vm1_vmm.log.gz'));
    throw new Problem(
      'E_NO_SUCH_FILE',
      several ? 'the folder holds the logs of several guests' : 'the folder holds no log of a guest',
      { file: log },
      several ? 'name one of them, e.g. vm1' : 'give a folder with vmm.log.gz in it',
    );
  }
  const marks: Mark[] = [];
  const sources = [
    await readGzipLines(log, (text, line) => {
      if (text !== '') marks.push(parseMark(text, line));
    }),
  ];
  const dumps = new Map<string, Dump>();
  for (const mark of marks) {
    if (mark.kind !== 'dump') continue;
    const path = join(folder, `${prefix}${mark.file}.gz`);
    if (!existsSync(path)) continue;
    const dump = new DumpReader();
    sources.push(await readGzipLines(path, (text, line) => dump.line(text, line)));
    dumps.set(mark.file, dump);
  }
  return {
    log,
    marks,
    dumps,
    sources,
    kvmParameters: await optionalText(join(folder, 'kvm_params.txt')),
    commandLine: await optionalText(join(folder, 'cmdline.txt')),
    together: vm !== undefined,
  };
}

async function optionalText(path: string): Promise<string> {
  return existsSync(path) ? await readFile(path, 'utf8') : '';
}
