/** The foreign formats that can be imported: how each is known, and where its importer is. */

import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { constants, gunzipSync } from 'node:zlib';
import { Problem } from '../bits/problem.ts';
import type { StepSink } from '../import/sink.ts';
import { errorCode, ioProblem } from '../trace/input.ts';

export interface ImportFormat {
  readonly name: string;
  readonly summary: string;
  /** What the input looks like, for the message when none fits. */
  readonly looksLike: string;
  readonly fits: (input: InputLook) => boolean;
  /** The options that it looks at. */
  readonly options: readonly (keyof ImportOptions)[];
  /** Loads the importer, which is not done before it is used, and imports. */
  readonly import: (path: string, sink: StepSink, options: ImportOptions) => Promise<unknown>;
}

export interface ImportOptions {
  /** Which guest of a recording of several. */
  readonly vm?: string | undefined;
}

/** What is seen of an input without reading it. */
export interface InputLook {
  /** Names in the folder; `undefined` for a file. */
  readonly folder: readonly string[] | undefined;
  /** The first bytes of a file, unpacked if it is gzip. */
  readonly head: string;
}

/** The log of a guest; with the guest's name before it where several were recorded at once. */
const GUEST_LOG = /^(?:[^_]+_)?vmm\.log\.gz$/;

const KVM_TRACES: ReadonlySet<string> = new Set(['trace.dat', 'trace.txt.gz', 'trace.txt']);
/** How a file of trace-cmd begins. */
const TRACE_DAT = '\x17\x08\x44tracing';
/** An event of KVM's in any dialect of the text. */
const KVM_EVENT_LINE = /: (?:kvm:|kvmmmu:)?(?:kvm_entry|kvm_exit|kvm_mmu_\w+|kvm_page_fault): /;

export const IMPORT_FORMATS: readonly ImportFormat[] = [
  {
    name: 'walklog',
    summary: "Log of an emulator's page walks (.walklog, .walklog.gz)",
    looksLike: 'a file whose first line begins with "H walklog"',
    fits: ({ head }) => head.startsWith('H walklog'),
    options: [],
    import: async (path, sink) => (await import('../import/walklog/importer.ts')).importWalklog(path, sink),
  },
  {
    name: 'kvm-guest',
    summary: 'What a guest under KVM saw, by its own marks (folder with vmm.log.gz; --vm for one guest of several)',
    looksLike: 'a folder that holds the log of a guest (vmm.log.gz)',
    fits: ({ folder }) => folder?.some((name) => GUEST_LOG.test(name)) === true,
    options: ['vm'],
    import: async (path, sink, { vm }) => {
      const { importKvmGuest } = await import('../import/kvm-guest/import-kvm-guest.ts');
      return importKvmGuest(path, sink, vm === undefined ? {} : { vm });
    },
  },
  {
    name: 'kvm',
    summary:
      "KVM's own tracepoints (trace.dat or text, alone or in a recording's folder; --vm for one guest of several)",
    looksLike: 'a trace of the kvm and kvmmmu events (trace-cmd, ftrace, perf script), or a folder that holds one',
    fits: ({ folder, head }) =>
      folder?.some((name) => KVM_TRACES.has(name)) === true ||
      head.startsWith(TRACE_DAT) ||
      head.startsWith('# tracer:') ||
      KVM_EVENT_LINE.test(head),
    options: ['vm'],
    import: async (path, sink, { vm }) => {
      const { importKvm } = await import('../import/kvm/import-kvm.ts');
      return importKvm(path, sink, vm === undefined ? {} : { vm });
    },
  },
];

const HEAD = 4096;

function headOf(path: string): string {
  const fd = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(HEAD);
    const head = bytes.subarray(0, readSync(fd, bytes, 0, HEAD, null));
    if (head[0] !== 0x1f || head[1] !== 0x8b) return head.toString('latin1');
    // The beginning of a gzip file unpacks as far as it goes.
    return gunzipSync(head, { finishFlush: constants.Z_SYNC_FLUSH }).toString('latin1');
  } catch (error) {
    if (errorCode(error).startsWith('Z_')) return '';
    throw error;
  } finally {
    closeSync(fd);
  }
}

function lookAt(path: string): InputLook {
  try {
    if (statSync(path).isDirectory()) return { folder: readdirSync(path), head: '' };
    return { folder: undefined, head: headOf(path) };
  } catch (error) {
    throw ioProblem(error, path, 'open it');
  }
}

/** Whether an importer knows the file or folder; false for what cannot be read. */
export function isRecording(path: string): boolean {
  try {
    const look = lookAt(path);
    return IMPORT_FORMATS.some(({ fits }) => fits(look));
  } catch {
    return false;
  }
}

/** The format that the input looks like. Throws E_IMPORT, saying what was looked for, if it is none. */
export function detectFormat(path: string): ImportFormat {
  const look = lookAt(path);
  const format = IMPORT_FORMATS.find(({ fits }) => fits(look));
  if (format !== undefined) return format;
  const known = IMPORT_FORMATS.map(({ name, looksLike }) => `${name} is ${looksLike}`).join('; ');
  const remedy = 'name the format, `rewalk import FORMAT INPUT`, if you know better';
  throw new Problem('E_IMPORT', `the format is not recognised: ${known}`, { file: path }, remedy);
}
