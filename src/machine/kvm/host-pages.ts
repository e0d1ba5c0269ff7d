/**
 * The host's memory management: what is under each page of host-virtual memory, and in which host frame.
 *
 * Pages are named by page number of their host-virtual address, exact as a double. They are kept in chunks of 2 MiB.
 * Frames are congruent to page numbers modulo 2^9, and in the first few GiB modulo 2^18, until a page gets a new frame;
 * contents go with the page.
 */

import { Problem } from '../../bits/problem.ts';
import { HostPage } from '../../formats/step.ts';
import type { Memory } from '../memory.ts';
import { HostFrames, REGION_FRAMES, RUN_FRAMES } from './frames.ts';

/** Chunks that one host may have touched: 512 GiB. Traces come from strangers. */
const MAXIMUM_CHUNKS = 1 << 18;

const STATE_MASK = 3;
const LEVEL_SHIFT = 2;

/** 1 GiB of host-virtual memory, and as much of physical memory for it. */
interface Region {
  /** First frame, or -1: there were no regions left, each chunk has a run of its own. */
  readonly base: number;
  /** Some page has another frame than the region's. */
  broken: boolean;
}

class Chunk {
  /** Page number of the first page. */
  readonly first: number;
  readonly region: Region;
  /** Frame of the first page; the others follow, unless `frames` says otherwise. */
  base: number;
  /** Frame by page, null while all are the base's. */
  frames: Int32Array | null = null;
  /** State and level by page, null: all absent. */
  states: Uint8Array | null = null;

  constructor(first: number, region: Region, base: number) {
    this.first = first;
    this.region = region;
    this.base = base;
  }

  frame(index: number): number {
    return this.frames === null ? this.base + index : this.frames[index]!;
  }
}

export class HostPages {
  private readonly memory: Memory;
  private readonly frames: HostFrames;
  /** Level of the mappings of a host all of whose pages are writable, 0: pages have states of their own. */
  private readonly uniformLevel: number;
  /** By page number / 512. */
  private readonly chunks = new Map<number, Chunk>();
  /** By page number / 2^18. */
  private readonly regions = new Map<number, Region>();
  /** Chunk by number of the 512 frames that are its base. */
  private readonly chunkOfRun = new Map<number, Chunk>();
  /** Page number by single frame. */
  private readonly pageOfSingle = new Map<number, number>();
  private last: Chunk | undefined;

  /** `uniformLevel` 1, 2 or 3: every page is writable and mapped at this level if its frames allow it. Throws E_UNSOUND. */
  constructor(memory: Memory, maxphyaddr: number, uniformLevel: 0 | 1 | 2 | 3) {
    this.memory = memory;
    this.frames = new HostFrames(maxphyaddr);
    this.uniformLevel = uniformLevel;
  }

  /** The frame that holds the page's contents, whatever its state. Throws E_LIMIT. */
  frameOf(page: number): number {
    const chunk = this.chunkOf(page);
    return chunk.frame(page - chunk.first);
  }

  /** One of `HostPage`. */
  stateOf(page: number): number {
    if (this.uniformLevel !== 0) return HostPage.WRITABLE;
    const chunk = this.chunkOf(page);
    return chunk.states === null ? HostPage.ABSENT : chunk.states[page - chunk.first]! & STATE_MASK;
  }

  /** Level of the host's mapping: what it was said to be, as far as frames allow it; 1 for absent pages. */
  levelOf(page: number): number {
    const chunk = this.chunkOf(page);
    let level = this.uniformLevel;
    if (level === 0) {
      const word = chunk.states === null ? HostPage.ABSENT : chunk.states[page - chunk.first]!;
      if ((word & STATE_MASK) === HostPage.ABSENT) return 1;
      level = word >>> LEVEL_SHIFT || 1;
    }
    if (level > 1 && chunk.frames !== null) return 1;
    return level === 3 && (chunk.region.base < 0 || chunk.region.broken) ? 2 : level;
  }

  /** The page that a frame holds now, or -1. */
  pageOf(frame: number): number {
    const chunk = this.chunkOfRun.get(Math.floor(frame / RUN_FRAMES));
    if (chunk === undefined) return this.pageOfSingle.get(frame) ?? -1;
    const index = frame - chunk.base;
    return chunk.frames === null || chunk.frames[index] === frame ? chunk.first + index : -1;
  }

  /** First page, and number of pages, of the mapping that a page is in. */
  mappingOf(page: number): { readonly first: number; readonly count: number } {
    const chunk = this.chunkOf(page);
    const level = this.uniformLevel !== 0 ? 1 : (chunk.states?.[page - chunk.first] ?? 0) >>> LEVEL_SHIFT || 1;
    const count = level === 1 ? 1 : level === 2 ? RUN_FRAMES : REGION_FRAMES;
    return { first: page - (page % count), count };
  }

  /** Puts what is absent of the mapping that a page is in, into `state`. */
  bring(page: number, state: number): void {
    const { first, count } = this.mappingOf(page);
    this.eachOf(first, count, (chunk, index) => {
      const states = this.statesOf(chunk);
      if ((states[index]! & STATE_MASK) === HostPage.ABSENT) states[index] = states[index]! | state;
    });
  }

  /**
   * Says what is under a run of pages, and how it is mapped. Pages that are no longer there lose their contents, and
   * their frames. Throws E_LIMIT.
   */
  set(first: number, count: number, state: number, level: number): void {
    if (this.uniformLevel !== 0) return;
    this.eachOf(first, count, (chunk, index) => {
      const states = this.statesOf(chunk);
      const goes = state === HostPage.ABSENT && (states[index]! & STATE_MASK) !== HostPage.ABSENT;
      states[index] = state | (level << LEVEL_SHIFT);
      if (goes) {
        const frame = chunk.frame(index);
        this.memory.setPage((frame % 0x10_0000) << 12, Math.floor(frame / 0x10_0000), null);
        this.renewPage(chunk, index);
      }
    });
    if (level === 1) return;
    // Larger mappings need neighbouring frames.
    this.eachChunk(first, count, (chunk) => {
      if (chunk.frames !== null) this.renewChunk(chunk);
    });
  }

  /** Gives the pages of a range that are there new frames, and puts all of them into `state`, mapped at `level`. */
  renew(first: number, count: number, state: number, level: number): void {
    if (this.uniformLevel !== 0) return;
    const whole = level > 1;
    if (whole) this.eachChunk(first, count, (chunk) => this.renewChunk(chunk), false);
    this.eachOf(
      first,
      count,
      (chunk, index) => {
        const states = this.statesOf(chunk);
        if ((states[index]! & STATE_MASK) !== HostPage.ABSENT && !whole) this.renewPage(chunk, index);
        states[index] = state | (level << LEVEL_SHIFT);
      },
      false,
    );
  }

  /** Puts those pages of a range that anybody ever touched into `state`. */
  setState(first: number, count: number, state: number): void {
    if (this.uniformLevel !== 0) return;
    this.eachOf(
      first,
      count,
      (chunk, index) => {
        const states = this.statesOf(chunk);
        states[index] = (states[index]! & ~STATE_MASK) | state;
      },
      false,
    );
  }

  /** Ends the larger mappings that reach into a range. */
  splitMappings(first: number, count: number): void {
    if (this.uniformLevel !== 0) return;
    const start = first - (first % RUN_FRAMES);
    const end = Math.ceil((first + count) / RUN_FRAMES) * RUN_FRAMES;
    this.eachOf(
      start,
      end - start,
      (chunk, index) => {
        const { states } = chunk;
        if (states !== null && states[index]! >>> LEVEL_SHIFT > 1) states[index] = states[index]! & STATE_MASK;
      },
      false,
    );
  }

  private renewPage(chunk: Chunk, index: number): void {
    const old = chunk.frame(index);
    chunk.frames ??= Int32Array.from({ length: RUN_FRAMES }, (_, i) => chunk.base + i);
    chunk.region.broken = true;
    const frame = this.frames.takeSingle();
    chunk.frames[index] = frame;
    this.pageOfSingle.delete(old);
    this.pageOfSingle.set(frame, chunk.first + index);
    this.memory.movePage(old, frame);
  }

  private renewChunk(chunk: Chunk): void {
    const base = this.frames.takeRun();
    for (let index = 0; index < RUN_FRAMES; index++) {
      const old = chunk.frame(index);
      this.pageOfSingle.delete(old);
      this.memory.movePage(old, base + index);
    }
    this.chunkOfRun.delete(Math.floor(chunk.base / RUN_FRAMES));
    chunk.base = base;
    chunk.frames = null;
    chunk.region.broken = true;
    this.chunkOfRun.set(Math.floor(base / RUN_FRAMES), chunk);
  }

  private statesOf(chunk: Chunk): Uint8Array {
    chunk.states ??= new Uint8Array(RUN_FRAMES);
    return chunk.states;
  }

  /** Calls for each page of a range. `create`: also of chunks that nobody has touched yet. */
  private eachOf(first: number, count: number, call: (chunk: Chunk, index: number) => void, create = true): void {
    const end = first + count;
    this.eachChunk(
      first,
      count,
      (chunk) => {
        const from = Math.max(0, first - chunk.first);
        const to = Math.min(RUN_FRAMES, end - chunk.first);
        for (let index = from; index < to; index++) call(chunk, index);
      },
      create,
    );
  }

  private eachChunk(first: number, count: number, call: (chunk: Chunk) => void, create = true): void {
    const from = Math.floor(first / RUN_FRAMES);
    const to = Math.ceil((first + count) / RUN_FRAMES);
    if (!create && to - from > this.chunks.size) {
      const touched = [...this.chunks.values()].filter(
        ({ first: at }) => at + RUN_FRAMES > first && at < first + count,
      );
      for (const chunk of touched) call(chunk);
      return;
    }
    for (let number = from; number < to; number++) {
      const chunk = create ? this.chunkOf(number * RUN_FRAMES) : this.chunks.get(number);
      if (chunk !== undefined) call(chunk);
    }
  }

  private chunkOf(page: number): Chunk {
    const { last } = this;
    if (last !== undefined && page >= last.first && page < last.first + RUN_FRAMES) return last;
    const number = Math.floor(page / RUN_FRAMES);
    const chunk = this.chunks.get(number) ?? this.touch(number);
    this.last = chunk;
    return chunk;
  }

  private touch(number: number): Chunk {
    if (this.chunks.size === MAXIMUM_CHUNKS) {
      throw new Problem(
        'E_LIMIT',
        `the trace touches memory in more than ${MAXIMUM_CHUNKS} places, 2 MiB each`,
        {},
        'check how it was made',
      );
    }
    const first = number * RUN_FRAMES;
    const regionNumber = Math.floor(first / REGION_FRAMES);
    let region = this.regions.get(regionNumber);
    if (region === undefined) {
      region = { base: this.frames.takeRegion(), broken: false };
      this.regions.set(regionNumber, region);
    }
    const base = region.base < 0 ? this.frames.takeRun() : region.base + (first % REGION_FRAMES);
    const chunk = new Chunk(first, region, base);
    this.chunks.set(number, chunk);
    this.chunkOfRun.set(Math.floor(base / RUN_FRAMES), chunk);
    return chunk;
  }
}
