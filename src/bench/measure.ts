/**
 * What `rewalk bench` measures. Every figure is the best of several rounds of one run: the machine is shared, and
 * ratios within a run are what counts.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { word64 } from '../bits/word64.ts';
import { ACCESS_CPL_SHIFT, ACCESS_USER, ACCESS_WALKED, StepKind } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import { ReplaySession } from '../replay/session.ts';
import { FORMAT_VERSION, type TraceHeader } from '../trace/header.ts';
import { TraceReader } from '../trace/reader.ts';
import { TraceWriter } from '../trace/writer.ts';
import { NativeWalker } from './native.ts';
import { buildWalkTables, loadWalkTables } from './tables.ts';

const MAXPHYADDR = 46;
const WALK_ADDRESSES = 1 << 18;

/** A processor for the walk benchmark: everything that the tables need, nothing else. */
const WALK_HEADER: TraceHeader = {
  formatVersion: FORMAT_VERSION,
  featureFlags: 0,
  recorder: '',
  writer: '',
  title: 'walk benchmark',
  processor: {
    vendor: 'intel',
    model: '',
    maxphyaddr: MAXPHYADDR,
    features: ['pse36', 'pdpe1gb'],
    eptVpidCap: word64(0x73_4141),
    secondaryControlsAllowed: 0,
  },
  adPolicy: 'after-permissions',
  observable: 0,
  independent: true,
  sources: [],
  knownFaults: [],
  hypervisor: undefined,
  omissions: [],
};

export interface TraceFigures {
  readonly trace: string;
  readonly steps: number;
  /** Bytes of the uncompressed file. */
  readonly bytes: number;
  /** Steps per second, decoding alone: uncompressed, and as the file is. */
  readonly decode: number;
  readonly decodeAsStored: number;
  /** Steps per second of replaying the uncompressed file, decoding included. */
  readonly replay: number;
  /** Decoding time as a part of replay time. */
  readonly decodeShare: number;
  readonly observationsPredicted: number;
  /** Peak resident memory of the process so far, bytes. */
  readonly peakMemory: number;
}

export interface WalkFigures {
  readonly walks: number;
  /** 2-D walks per second, no TLB. */
  readonly perSecond: number;
  readonly native: number | undefined;
  readonly ratio: number | undefined;
  readonly peakMemory: number;
}

function best(rounds: number, once: () => number): number {
  let most = 0;
  for (let i = 0; i < rounds; i++) most = Math.max(most, once());
  return most;
}

function peakMemory(): number {
  return process.resourceUsage().maxRSS * 1024;
}

/** Reads a file to its end without replaying; steps per second. */
function decodeRate(path: string): number {
  const start = performance.now();
  const reader = TraceReader.open(path);
  let steps = 0;
  let sum = 0;
  try {
    for (const item of reader) {
      if (item.kind !== 'steps') continue;
      steps += item.columns.stepCount;
      // Touch the columns, so that nothing is put off.
      sum += item.columns.op[0] ?? 0;
    }
  } finally {
    reader.close();
  }
  if (sum < 0) throw new Error('a sum of words is never negative');
  return (steps / (performance.now() - start)) * 1000;
}

/** Replays a file of one segment from its beginning to its end; steps per second, and what was predicted. */
function replayRate(path: string): { rate: number; predicted: number } {
  const start = performance.now();
  const reader = TraceReader.open(path);
  let session: ReplaySession | undefined;
  let steps = 0;
  try {
    for (const item of reader) {
      if (item.kind === 'header') session = new ReplaySession(path, item.header);
      else if (item.kind === 'steps') {
        session!.run(item.columns);
        steps += item.columns.stepCount;
      }
    }
  } finally {
    reader.close();
  }
  const rate = (steps / (performance.now() - start)) * 1000;
  return { rate, predicted: session!.result(undefined, 'complete').receipt.observationsPredicted };
}

/** Writes a trace anew without compression; returns bytes and steps. */
function unpack(path: string, to: string): { bytes: number; steps: number } {
  const reader = TraceReader.open(path);
  let writer: TraceWriter | undefined;
  try {
    for (const item of reader) {
      if (item.kind === 'header') writer = TraceWriter.create(to, item.header, { codec: 'none' });
      else if (item.kind === 'steps') writer!.add(item.columns);
      else break;
    }
    return writer!.finish();
  } finally {
    reader.close();
    writer?.abort();
  }
}

/** Decoding and replay of a trace of one segment, in turn, so that both meet the same neighbours on the machine. */
export function measureTrace(path: string, rounds: number): TraceFigures {
  const folder = mkdtempSync(join(tmpdir(), 'rewalk-bench-'));
  try {
    const plain = join(folder, 'plain.rwt');
    const { bytes, steps } = unpack(path, plain);
    let predicted = 0;
    let decode = 0;
    const replay = best(rounds, () => {
      decode = Math.max(decode, decodeRate(plain));
      const run = replayRate(plain);
      predicted = run.predicted;
      return run.rate;
    });
    return {
      trace: path,
      steps,
      bytes,
      decode,
      decodeAsStored: best(rounds, () => decodeRate(path)),
      replay,
      decodeShare: replay / decode,
      observationsPredicted: predicted,
      peakMemory: peakMemory(),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** 2-D walks through the machine, and natively over the same tables if asked for. Throws if the two disagree. */
export function measureWalks(rounds: number, native: boolean): WalkFigures {
  const tables = buildWalkTables(WALK_ADDRESSES);
  const machine = new BareMachine(WALK_HEADER);
  loadWalkTables(machine, tables);
  const op = StepKind.ACCESS | ACCESS_USER | ACCESS_WALKED | (3 << ACCESS_CPL_SHIFT);
  const signed = new Int32Array(tables.addresses.buffer);
  const { log } = machine;
  const walkAll = (): number => {
    const start = performance.now();
    for (let i = 0; i < signed.length; i += 2) machine.apply(0, op, signed[i]!, signed[i + 1]!, 0, 0, []);
    return (WALK_ADDRESSES / (performance.now() - start)) * 1000;
  };
  const checksum = (): bigint => {
    let sum = 0n;
    for (let i = 0; i < signed.length; i += 2) {
      machine.apply(0, op, signed[i]!, signed[i + 1]!, 0, 0, []);
      const at = (log.count - 1) * ROW;
      sum += BigInt(log.rows[at + ROW_ADDRESS_LO]! >>> 0) + (BigInt(log.rows[at + ROW_ADDRESS_HI]! >>> 0) << 32n);
    }
    return sum & 0xffff_ffff_ffff_ffffn;
  };
  const walker = native ? new NativeWalker(tables, MAXPHYADDR) : undefined;
  try {
    let nativeRate = 0;
    // Alternately, so that both meet the same neighbours.
    const perSecond = best(rounds, () => {
      if (walker !== undefined) nativeRate = Math.max(nativeRate, walker.run(2).walksPerSecond);
      // What the other process left in the caches is not ours to pay for: the best of a few passes.
      return best(3, walkAll);
    });
    if (walker !== undefined && walker.run(1).checksum !== checksum()) {
      throw new Error('the machine and the native walker translate differently');
    }
    return {
      walks: WALK_ADDRESSES,
      perSecond,
      native: walker === undefined ? undefined : nativeRate,
      ratio: walker === undefined ? undefined : perSecond / nativeRate,
      peakMemory: peakMemory(),
    };
  } finally {
    walker?.remove();
  }
}
