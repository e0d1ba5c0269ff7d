/** Marks a place that the type system has shown to be unreachable. */
export function assertUnreachable(value: never): never {
  throw new Error(`unreachable: ${String(value)}`);
}
