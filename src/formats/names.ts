/**
 * The names of an enumeration by number, as the text form, reports and options spell them: `ENTRY_WRITE` is
 * `entry-write`. `values`: numbered from 0 without gaps, in order.
 */
export function namesByNumber(values: Readonly<Record<string, number>>): readonly string[] {
  return Object.keys(values).map((name) => name.toLowerCase().replaceAll('_', '-'));
}
