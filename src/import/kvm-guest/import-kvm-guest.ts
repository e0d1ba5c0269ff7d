/**
 * The guest's own view out of a recording of a guest under KVM: the log that the guest wrote through its VMM, and the
 * dumps. The README beside this file lists every mark and what becomes of it.
 *
 * KVM's trace of the same run is not read here: what the guest saw must come out of the guest's own words.
 */

import { basename } from 'node:path';
import { Problem } from '../../bits/problem.ts';
import { Obs, obsMask } from '../../formats/observation.ts';
import type { StepColumns } from '../../trace/columns.ts';
import { FORMAT_VERSION, type TraceHeader } from '../../trace/header.ts';
import { WRITER } from '../../trace/version.ts';
import type { StepSink } from '../sink.ts';
import { convert } from './conversion.ts';
import { hypervisorOf } from './hypervisor.ts';
import { knownFaults } from './known-faults.ts';
import { processorOf } from './processor.ts';
import { type GuestRecording, readRecording } from './recording.ts';

export interface KvmGuestOptions {
  /** Which guest of a folder that holds several: `vm1`, `vm2`. */
  readonly vm?: string;
}

/** What the marks let us see of an access. */
const OBSERVABLE = obsMask(
  Obs.TRANSLATED,
  Obs.COMPLETED,
  Obs.FAULTED,
  Obs.ENTRY_AFTER,
  Obs.EXCEPTION,
  Obs.EPT_VIOLATION,
  Obs.EPT_MISCONFIG,
  Obs.NPF,
);

/** Reads the recording in `folder` and hands header and steps to `sink`. Unknown input is a `Problem` with its line. */
export async function importKvmGuest(folder: string, sink: StepSink, options: KvmGuestOptions = {}): Promise<void> {
  const recording = await readRecording(folder, options.vm);
  const runs: StepColumns[] = [];
  const kept: StepSink = { header: () => undefined, steps: (columns) => runs.push(columns) };
  const scenario = [basename(folder), options.vm].filter((part) => part !== undefined).join(', ');
  try {
    const header = headerOf(recording, scenario);
    // QEMU with one processor makes a locked instruction as a load and a store; with several, as one access.
    const splitsRmw = header.processor.vendor === 'amd' && !recording.together;
    const omissions = [...convert(recording, kept, splitsRmw)].map(([what, count]) => ({ what, count }));
    sink.header({ ...header, omissions });
  } catch (error) {
    throw error instanceof Problem ? error.at({ file: recording.log }) : error;
  }
  for (const columns of runs) sink.steps(columns);
}

function headerOf(recording: GuestRecording, scenario: string): TraceHeader {
  const processor = processorOf(recording.marks);
  const hypervisor = hypervisorOf(recording.kvmParameters, recording.commandLine);
  const { marks, together } = recording;
  const secondStage = marks.some(
    (mark) => (mark.kind === 'l1Vmcb' && mark.np !== 0) || (mark.kind === 'l1Vmcs' && mark.useept !== 0),
  );
  const start = marks.find((mark) => mark.kind === 'vmmStart');
  const levels = start?.kind === 'vmmStart' ? start.mode : 4;
  return {
    formatVersion: FORMAT_VERSION,
    featureFlags: 0,
    recorder: `marks of a guest under ${hypervisor.name} ${hypervisor.version}`,
    writer: WRITER,
    title: `${scenario}: what the guest saw`,
    processor,
    adPolicy: 'after-permissions',
    observable: OBSERVABLE,
    independent: false,
    sources: recording.sources,
    knownFaults: knownFaults({ processor, tdp: hypervisor.tdp, together, secondStage, levels }),
    hypervisor,
    omissions: [],
  };
}
