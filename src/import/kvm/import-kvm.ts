/**
 * KVM's own side of a recording: its tracepoints as steps and observations, for a replay on the emulated KVM. The README
 * beside this file says what becomes of every event.
 */

import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Problem } from '../../bits/problem.ts';
import { type Word64, ZERO } from '../../bits/word64.ts';
import type { KvmProfile } from '../../formats/decode/kvm-role.ts';
import { Obs, obsMask } from '../../formats/observation.ts';
import { EPTP_AD } from '../../formats/registers.ts';
import type { StepColumns } from '../../trace/columns.ts';
import { FORMAT_VERSION, type Processor, type Source, type TraceHeader } from '../../trace/header.ts';
import { ioProblem } from '../../trace/input.ts';
import { WRITER } from '../../trace/version.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import { hypervisorOf } from '../kvm-guest/hypervisor.ts';
import { knownFaults } from '../kvm-guest/known-faults.ts';
import { processorOf } from '../kvm-guest/processor.ts';
import { type GuestRecording, readRecording } from '../kvm-guest/recording.ts';
import type { StepSink } from '../sink.ts';
import { Conversion, type Described } from './conversion.ts';
import { EventReceipt } from './event-receipt.ts';
import { exitUnits } from './exit-units.ts';
import { kvmConfigOf, l1tfBits, nothingSeen, type Seen } from './host-config.ts';
import { type PutIn, withExits } from './inferred-exits.ts';
import { NativeAccesses } from './native-accesses.ts';
import { NestedGuest } from './nested-guest.ts';
import { Parts } from './parts.ts';
import { prologue } from './prologue.ts';
import { Stranger } from './stranger.ts';
import { Surveyor } from './survey.ts';
import { DumpedVmcbNesting } from './svm-dumped.ts';
import { SvmNesting } from './svm-nesting.ts';
import { TraceMarks } from './trace-marks.ts';
import { Unannounced } from './unannounced.ts';
import { UnitQueue } from './unit-queue.ts';
import { VmxNesting } from './vmx-nesting.ts';
import { ofOneTask, taskOf } from './which-task.ts';

export interface KvmOptions {
  /** The kernel's generation, if the recording does not tell. Default `6.1`. */
  readonly profile?: KvmProfile;
  /** Which guest of a folder that holds several: `vm1`, `vm2`. */
  readonly vm?: string;
}

interface EventOptions extends KvmOptions {
  /** The trace file, whose records the steps' lines count. */
  readonly source?: Source;
  /** The events once more, for a first look at a trace without side files. Default: the events, which then are a list. */
  readonly survey?: Events;
  /** The task whose guest it is. Default: the first that enters a guest. */
  readonly task?: number;
}

/** What came of an import. */
export interface KvmImport {
  readonly receipt: EventReceipt;
  readonly steps: number;
  readonly rows: number;
}

type Events = AsyncIterable<TraceEvent> | Iterable<TraceEvent>;

const OBSERVABLE = obsMask(Obs.KVM_EVENT, Obs.KVM_MORE, Obs.COMPLETED, Obs.EXCEPTION);

const GUEST_LOG = /^(?:[^_]+_)?vmm\.log\.gz$/;

/** Marks ahead of what a guest does without an event. */
const ANNOUNCING: ReadonlySet<string> = new Set(['store', 'clearPage', 'fill', 'registerWrite', 'invlpg', 'vmrun']);

/**
 * Execute-only, walks of 4 levels, write-back, pages of 2 MiB and 1 GiB, INVEPT and INVVPID of every type
 * (SDM vol. 3D A.10).
 */
const OFFERED_TO_L1: Word64 = { lo: 0x0613_4041, hi: 0xf01 };
const EPT_CAP_AD = 1 << 21;

/** Names of a trace in a folder, the best first. */
const TRACES = ['trace.dat', 'trace.txt.gz', 'trace.txt'];

/**
 * Imports a recording folder, or a trace file alone. Unknown side files or marks are a `Problem` (E_IMPORT); events that
 * no rule knows are counted in the header's omissions.
 */
export async function importKvm(path: string, sink: StepSink, options: KvmOptions = {}): Promise<KvmImport> {
  const { openKvmTrace } = await import('../ftrace/open-kvm-trace.ts');
  const folder = isFolder(path);
  const trace = folder ? TRACES.map((name) => join(path, name)).find((file) => existsSync(file)) : path;
  if (trace === undefined) {
    throw new Problem(
      'E_NO_SUCH_FILE',
      'the folder holds no trace',
      { file: path },
      `give one with ${TRACES[0]} in it`,
    );
  }
  const recording = folder && hasLog(path) ? await readRecording(path, options.vm) : undefined;
  const { events } = await openKvmTrace(trace);
  const survey = recording === undefined ? (await openKvmTrace(trace)).events : undefined;
  const name = [basename(path), options.vm].filter((part) => part !== undefined).join(', ');
  try {
    const ofMany = recording?.together === true;
    return await importEvents(events, recording, name, sink, {
      ...options,
      source: await sourceOf(trace),
      ...(survey === undefined ? {} : { survey }),
      ...(ofMany ? { task: await taskOf((await openKvmTrace(trace)).events, recording.marks) } : {}),
    });
  } catch (error) {
    throw error instanceof Problem ? error.at({ file: trace }) : error;
  }
}

/** Marks of a guest, or of several, lie in the folder. */
function hasLog(folder: string): boolean {
  return readdirSync(folder).some((name) => GUEST_LOG.test(name));
}

/** The trace as the header names it. Throws E_IO. */
async function sourceOf(path: string): Promise<Source> {
  const hash = createHash('sha256');
  let size = 0;
  try {
    for await (const chunk of createReadStream(path)) {
      hash.update(chunk as Buffer);
      size += (chunk as Buffer).length;
    }
  } catch (error) {
    throw ioProblem(error, path, 'read it');
  }
  return { name: basename(path), size, sha256: hash.digest() };
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    throw new Problem('E_NO_SUCH_FILE', 'no such file or folder', { file: path });
  }
}

/** The same from events at hand; `recording`: the side files, `undefined` for a stranger's trace. */
export async function importEvents(
  events: Events,
  recording: GuestRecording | undefined,
  name: string,
  sink: StepSink,
  options: EventOptions = {},
): Promise<KvmImport> {
  const receipt = new EventReceipt();
  const seen = nothingSeen();
  const stranger = recording === undefined ? await strangerOf(ofOneTask(options.survey ?? events), seen) : undefined;
  const told = stranger?.survey.hasExits === false ? withExits(events, stranger.survey, stranger.putIn) : events;
  const units = new UnitQueue(exitUnits(told, receipt, options.task));
  const processor = recording === undefined ? unknownProcessor(stranger!) : processorOf(recording.marks);
  const hypervisor = hypervisorOf(recording?.kvmParameters ?? '', recording?.commandLine ?? '');
  await lookAtFirstExits(units, seen);
  const first = kvmConfigOf(hypervisor.parameters, processor, seen, options.profile ?? '6.1');
  const kept: StepColumns[] = [];
  const keeping: StepSink = { header: () => undefined, steps: (columns) => kept.push(columns) };
  const kvm = { intel: first.vendor === 'intel', tdp: first.tdp, profile: first.profile };
  const parts = new Parts(receipt, kvm, recording !== undefined);
  const described = recording && describedBy(recording, parts, hypervisor.parameters, processor);
  const conversion = new Conversion(keeping, parts, seen, described ?? stranger!);
  for (let unit = await units.take(); unit !== undefined; unit = await units.take()) {
    await conversion.unit(unit, units.following());
  }
  conversion.writer.flush();
  if (stranger !== undefined) receipt.dropPutIn(stranger.survey.names);
  const mmu = kvmConfigOf(hypervisor.parameters, processor, seen, options.profile ?? '6.1');
  const parameters = stranger === undefined ? hypervisor.parameters : strangersParameters(stranger);
  const header: TraceHeader = {
    formatVersion: FORMAT_VERSION,
    featureFlags: 0,
    recorder: `tracepoints of ${hypervisor.name}`,
    writer: WRITER,
    title: `${name}: what KVM did`,
    processor,
    adPolicy: 'after-permissions',
    observable: OBSERVABLE,
    independent: false,
    sources: [...(options.source === undefined ? [] : [options.source]), ...(recording?.sources ?? [])],
    knownFaults: recording === undefined ? [] : faultsOf(recording, processor, mmu.tdp),
    hypervisor: { ...hypervisor, parameters, tdp: mmu.tdp, mmu },
    omissions: [...receipt.omissions].map(([what, count]) => ({ what, count })),
    ...(stranger === undefined ? {} : { unknown: stranger.unknown }),
  };
  sink.header(header);
  for (const columns of kept) sink.steps(columns);
  return { receipt, steps: conversion.writer.steps, rows: conversion.writer.rows };
}

/** Which processor, and whether with two-dimensional paging: the first exits tell where no parameters do. */
async function lookAtFirstExits(units: UnitQueue, seen: ReturnType<typeof nothingSeen>): Promise<void> {
  let looked = 0;
  for await (const { exit } of units.following()) {
    const reason = exit?.reason;
    if (reason !== undefined) seen.vendor ??= reason === reason.toUpperCase() ? 'intel' : 'amd';
    if (reason === 'npf' || reason === 'EPT_VIOLATION' || reason === 'EPT_MISCONFIG') seen.tdp = true;
    if (reason === 'PF excp') seen.tdp = false;
    if (seen.tdp !== undefined || ++looked === 256) return;
  }
}

function unknownProcessor({ survey }: Stranger): Processor {
  return {
    vendor: survey.ept ? 'intel' : survey.hasExits ? 'amd' : 'unknown',
    model: 'unknown',
    maxphyaddr: survey.maxphyaddr,
    features: survey.features,
    eptVpidCap: survey.eptps === 0n ? ZERO : offeredToL1(survey.eptps),
    secondaryControlsAllowed: 0,
  };
}

/**
 * IA32_VMX_EPT_VPID_CAP for an L1 that uses EPT: what KVM offers on a processor that has it all; accessed and dirty bits
 * if an EPT pointer asks for them.
 */
function offeredToL1(eptps: bigint): Word64 {
  const { lo, hi } = OFFERED_TO_L1;
  return { lo: (lo | ((eptps & BigInt(EPTP_AD)) !== 0n ? EPT_CAP_AD : 0)) >>> 0, hi };
}

/** Surveys a trace without side files. */
async function strangerOf(events: Events, seen: Seen): Promise<Stranger> {
  const surveyor = new Surveyor();
  for await (const event of events) surveyor.add(event);
  const survey = surveyor.survey();
  seen.vendor = survey.ept || l1tfBits(survey.mmio) !== 0 ? 'intel' : 'amd';
  seen.tdp = survey.tdp;
  seen.tdpMmu = survey.tdpMmu;
  seen.directRootLevel = survey.directRootLevel;
  seen.mmio = survey.mmio;
  seen.adDisabled = survey.adDisabled;
  seen.highestPfn = survey.highestPfn;
  const putIn: PutIn = new WeakSet();
  return new Stranger(survey, putIn);
}

/** Which events are compared: those that the trace has at all. */
function strangersParameters(stranger: Stranger): string[] {
  const never = stranger.neverSeen;
  const { roleMask } = stranger.survey;
  return [
    ...(never.length === 0 ? [] : [`events-not-recorded=${never.join(',')}`]),
    ...(roleMask === 0xffff_ffff ? [] : [`role-bits=0x${roleMask.toString(16)}`]),
  ];
}

/** What the side files tell. */
function describedBy(
  recording: GuestRecording,
  parts: Parts,
  parameters: readonly string[],
  processor: Processor,
): Described {
  const { marks, dumps, together } = recording;
  const start = marks.find((mark) => mark.kind === 'vmmStart');
  parts.told.bootRoot = marks.find((mark) => mark.kind === 'boot')?.cr3;
  const native = new NativeAccesses(parts.memory, parts.registers, processor.vendor === 'amd' && !together);
  const silent = !announces(recording);
  parts.tables.announced = !silent;
  const dumped = silent ? dumpedNesting(recording, parts) : undefined;
  const kind = dumped ?? (parts.kvm.intel ? new VmxNesting(parts.receipt) : new SvmNesting(parts.receipt));
  const nested = new NestedGuest(parts, kind);
  return {
    nested,
    marks: new TraceMarks(parts, {
      native,
      nested,
      unannounced: silent ? new Unannounced(parts, dumps, dumped) : undefined,
      wordSize: start?.blob.includes('g32') === true ? 4 : 8,
      entrySize: start?.mode === 2 ? 4 : 8,
      dumps,
    }),
    prologue: () => prologue(parts, recording, parameters),
  };
}

/** The first kind of guest announces nothing of what it does (recordings/README.md). */
function announces({ marks }: GuestRecording): boolean {
  return marks.some(({ kind }) => ANNOUNCING.has(kind));
}

function dumpedNesting({ dumps }: GuestRecording, parts: Parts): DumpedVmcbNesting | undefined {
  const dump = [...dumps.values()].find((each) => each.vmcb !== undefined);
  return dump && new DumpedVmcbNesting(parts.receipt, dump, () => parts.now.following());
}

function faultsOf(recording: GuestRecording, processor: Processor, tdp: boolean): string[] {
  const { marks, together } = recording;
  const start = marks.find((mark) => mark.kind === 'vmmStart');
  const secondStage = marks.some(
    (mark) => (mark.kind === 'l1Vmcb' && mark.np !== 0) || (mark.kind === 'l1Vmcs' && mark.useept !== 0),
  );
  return knownFaults({ processor, tdp, together, secondStage, levels: start?.mode ?? 4 });
}
