/** A trace's result and its message, both ways. */

import { Problem } from '../bits/problem.ts';
import { defaultKvmConfig, type KvmConfig } from '../formats/kvm-config.ts';
import type { MachineFacts } from '../replay/result.ts';
import { decodeHeader, encodeHeader } from '../trace/header-message.ts';
import { DEFAULT_LIMITS } from '../trace/limits.ts';
import { countOf, longOfCount } from '../trace/messages.ts';
import { upgradeHeader } from '../trace/upgrade.ts';
import type { ResultsLimits, StoredTrace, VerdictGroup } from './model.ts';
import { JUDGEMENTS, nameOf, VERDICTS } from './names.ts';
import { decodeReceipt, encodeReceipt } from './receipt-message.ts';
import type { rewalk } from './schema/results.js';

type TraceMessage = rewalk.results.TraceResult.$Properties;
type MachineMessage = rewalk.results.Machine.$Properties;

function encodeMachine(facts: MachineFacts, description: string): MachineMessage {
  return {
    description,
    name: facts.name,
    wiring: facts.wiring ?? '',
    mutant: [...facts.mutants],
    setting: Object.entries(facts.config ?? {}).map(([name, value]) => ({ name, value: JSON.stringify(value) })),
  };
}

/** Settings that this version does not know are left out; one that is missing or of another type is E_UNSOUND. */
function decodeConfig(settings: readonly rewalk.results.Setting.$Properties[]): KvmConfig {
  const given = new Map(settings.map(({ name, value }) => [name ?? '', value ?? '']));
  const entries = Object.entries(defaultKvmConfig()).map(([name, usual]) => {
    let value: unknown;
    try {
      value = JSON.parse(given.get(name) ?? '');
    } catch {
      // Told of below.
    }
    if (typeof value !== typeof usual) throw new Problem('E_UNSOUND', `the machine's setting ${name} cannot be read`);
    return [name, value] as const;
  });
  return Object.fromEntries(entries) as unknown as KvmConfig;
}

function decodeMachine(message: MachineMessage): MachineFacts {
  const { name } = message;
  if (name !== 'bare' && name !== 'kvm') throw new Problem('E_UNSOUND', 'the machine is neither bare nor kvm');
  return {
    name,
    config: name === 'kvm' ? decodeConfig(message.setting ?? []) : undefined,
    wiring: message.wiring || undefined,
    mutants: message.mutant ?? [],
  };
}

function decodeGroup(message: rewalk.results.Group.$Properties): VerdictGroup {
  return {
    judgement: nameOf(JUDGEMENTS, message.judgement, 'a judgement'),
    group: message.group ?? '',
    count: countOf(message.count, 'a count'),
    first: countOf(message.first, 'a step'),
    leads: countOf(message.leads, 'a count'),
    mixed: countOf(message.mixed, 'a count'),
  };
}

export function encodeTrace(trace: StoredTrace, limits: ResultsLimits): TraceMessage {
  const { receipt, coverage } = trace;
  return {
    file: trace.file,
    segment: trace.segment,
    verdict: VERDICTS.indexOf(trace.verdict),
    machine: encodeMachine(trace.machine, receipt.machine),
    receipt: encodeReceipt(receipt, limits.maxInvariants),
    group: trace.groups.map(({ judgement, group, count, first, leads, mixed }) => ({
      judgement: JUDGEMENTS.indexOf(judgement),
      group,
      count: longOfCount(count),
      first: longOfCount(first),
      leads: longOfCount(leads),
      mixed: longOfCount(mixed),
    })),
    header: encodeHeader(trace.header),
    keptSteps: trace.keptSteps,
    stepCount: longOfCount(trace.stepCount),
    ...(coverage === undefined ? {} : { coverage: coverage.bits, coverageCells: coverage.cells }),
    ...(Number.isFinite(trace.keptBelow) ? { keptBelow: longOfCount(trace.keptBelow) } : {}),
  };
}

/** Throws E_UNSOUND, E_LIMIT, and what a trace's header throws. */
export function decodeTrace(message: TraceMessage, limits: ResultsLimits): StoredTrace {
  const groups = (message.group ?? []).map(decodeGroup);
  const file = message.file ?? '';
  const header = message.header ?? new Uint8Array(0);
  const keptSteps = message.keptSteps ?? 0;
  if (keptSteps > limits.maxSteps) {
    throw new Problem(
      'E_LIMIT',
      `the trace has ${keptSteps} steps, more than the limit maxSteps of ${limits.maxSteps}`,
    );
  }
  const receipt = message.receipt ?? {};
  const { keptBelow, coverage } = message;
  return {
    file,
    segment: message.segment ?? 0,
    header: upgradeHeader(decodeHeader(header, 0, header.length, DEFAULT_LIMITS)),
    verdict: nameOf(VERDICTS, message.verdict, 'a verdict'),
    machine: decodeMachine(message.machine ?? {}),
    receipt: decodeReceipt(receipt, { file, machine: message.machine?.description ?? '', groups }),
    brokenInvariants: countOf(receipt.brokenInvariantCount, 'a count'),
    groups,
    stepCount: countOf(message.stepCount, 'a count'),
    keptSteps,
    keptBelow: keptBelow === undefined || keptBelow === null ? Number.POSITIVE_INFINITY : countOf(keptBelow, 'a step'),
    coverage:
      coverage && coverage.length > 0
        ? { cells: message.coverageCells ?? 0, bits: Uint8Array.from(coverage) }
        : undefined,
  };
}
