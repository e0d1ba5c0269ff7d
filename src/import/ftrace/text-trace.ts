/**
 * A kernel trace as text, line by line into events: the kernel's `trace` and `trace_pipe`, `trace-cmd report`,
 * `perf script`. What a line is shows in the line, so that dialects need not be known beforehand.
 */

import { Problem } from '../../bits/problem.ts';
import { Cursor } from './cursor.ts';
import type { TraceEvent, TraceEventFields } from './event.ts';
import { parseEventText } from './event-text.ts';
import { type LineHead, parseLineHead } from './line-head.ts';

/** What a text says of itself before its first event. */
export interface TextAbout {
  form: 'ftrace' | 'trace-cmd report' | 'perf script';
  kernel: string | undefined;
  cpus: number | undefined;
}

/** A mark is at most a page; its further lines have no head of their own. */
const MAX_MARK = 4096;

const REMEDY =
  'give the trace.dat itself, or text by the kernel, `trace-cmd report -N` or `perf script` without the KVM plugin of libtraceevent';

export class TextTraceParser {
  readonly about: TextAbout = { form: 'ftrace', kernel: undefined, cpus: undefined };
  readonly #file: string;
  #line = 0;
  /** What the lines so far have said, but for the lines of a mark that may still come. */
  #held: TraceEvent | undefined;
  #lastTime = 0;
  /** Something that only a kernel trace has was seen. */
  #known = false;

  /** `file`: name for problems. */
  constructor(file: string) {
    this.#file = file;
  }

  /** Takes the next line, without its newline; returns the event that is now complete. Throws E_IMPORT with file and line. */
  line(text: string): TraceEvent | undefined {
    this.#line++;
    try {
      const head = text.startsWith('#') ? undefined : parseLineHead(text);
      return head === undefined ? this.#withoutHead(text) : this.#withHead(head);
    } catch (error) {
      throw error instanceof Problem ? error.at({ file: this.#file, line: this.#line }) : error;
    }
  }

  #withHead(head: LineHead): TraceEvent | undefined {
    this.#known = true;
    if (head.perf) this.about.form = 'perf script';
    return this.#hold({
      position: this.#line,
      time: head.time,
      task: head.task,
      pid: head.pid,
      cpu: head.cpu,
      ...this.#fields(head),
    });
  }

  /** The last event, after the last line. Throws E_IMPORT if nothing was like a kernel trace. */
  end(): TraceEvent | undefined {
    if (!this.#known) throw new Problem('E_IMPORT', 'there is no kernel trace in the file', { file: this.#file });
    return this.#hold(undefined);
  }

  #hold(next: TraceEvent | undefined): TraceEvent | undefined {
    const complete = this.#held;
    this.#held = next;
    if (next !== undefined) this.#lastTime = next.time;
    return complete;
  }

  #fields(head: LineHead): TraceEventFields {
    try {
      return parseEventText(head.event, head.text);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      throw new Problem(error.code, `${head.event}: ${error.message}`, {}, REMEDY);
    }
  }

  #withoutHead(text: string): TraceEvent | undefined {
    if (text.startsWith('#')) return this.#comment(text);
    const lost = parseLost(text);
    if (lost !== undefined) {
      const place = { position: this.#line, time: this.#lastTime, task: '', pid: -1, cpu: lost.cpu };
      return this.#hold({ ...place, name: 'lost', count: lost.count });
    }
    const held = this.#held;
    if (held?.name === 'mark' && held.text.length + text.length < MAX_MARK) {
      this.#held = { ...held, text: text === '' ? held.text : `${held.text}\n${text}` };
      return undefined;
    }
    if (!this.#isRemark(text)) {
      throw new Problem(
        'E_IMPORT',
        `no line of a kernel trace: ${JSON.stringify(text.slice(0, 60))}`,
        {},
        'give text of the kernel’s trace buffer, of `trace-cmd report` or of `perf script`',
      );
    }
    return undefined;
  }

  /** Lines of the tools themselves; blank ones; stacks, one function to a line. */
  #isRemark(text: string): boolean {
    if (text.startsWith('cpus=')) {
      this.#known = true;
      this.about.form = 'trace-cmd report';
      this.about.cpus = smallNumber(text.slice(5));
      return true;
    }
    if (text.startsWith('version = ') || (text.startsWith('CPU ') && text.endsWith(' is empty'))) return true;
    return text.trim() === '' || text.startsWith(' => ') || (this.#known && text.startsWith('\t'));
  }

  /** Heads of the kernel's `trace` and of perf; `##### CPU 1 buffer started ####`. */
  #comment(text: string): undefined {
    if (text.startsWith('# tracer:') || text.startsWith('# ========')) this.#known = true;
    const processors = text.indexOf('#P:');
    if (processors !== -1) this.about.cpus ??= smallNumber(text.slice(processors + 3));
    const colon = text.indexOf(' : ');
    if (text.startsWith('# os release : ')) this.about.kernel ??= text.slice(colon + 3).trim();
    if (text.startsWith('# nrcpus online : ')) this.about.cpus ??= smallNumber(text.slice(colon + 3));
    return undefined;
  }
}

/**
 * `CPU:1 [LOST 12 EVENTS]` of the kernel, `CPU:1 [12 EVENTS DROPPED]` of trace-cmd; the number may be missing.
 */
function parseLost(text: string): { readonly cpu: number; readonly count: number | undefined } | undefined {
  if (!text.startsWith('CPU:')) return undefined;
  const cursor = new Cursor(text, 4);
  const cpu = cursor.decimal();
  cursor.literal(' [');
  const words = cursor.before(']').split(' ');
  if (!words.includes('EVENTS')) return undefined;
  return { cpu, count: words.map(smallNumber).find((count) => count !== undefined) };
}

function smallNumber(text: string): number | undefined {
  const value = Number(text.trim());
  return text.trim() !== '' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}

/**
 * Events of a text trace, in its order. `lines` without newlines, `where`: name of the file, for problems.
 * Throws E_IMPORT with file and line at the first line that is not understood.
 */
export async function* readTextTrace(
  lines: AsyncIterable<string> | Iterable<string>,
  where: string,
): AsyncGenerator<TraceEvent, void, void> {
  const parser = new TextTraceParser(where);
  for await (const line of lines) {
    const event = parser.line(line);
    if (event !== undefined) yield event;
  }
  const last = parser.end();
  if (last !== undefined) yield last;
}
