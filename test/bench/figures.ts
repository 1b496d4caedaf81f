// A figure, what it is held against, and the table of them.

const units = {
  ms: { digits: 2, text: " ms" },
  perSecond: { digits: 0, text: " /s" },
  mibPerSecond: { digits: 0, text: " MiB/s" },
  mib: { digits: 1, text: " MiB" },
  kib: { digits: 1, text: " KiB" },
  count: { digits: 0, text: "" },
} as const;

/** `difference`: what procsup's figure has more than the floor. */
type Target = {
  of: "ratio" | "value" | "difference";
  is: "at most" | "at least";
  bound: number;
};

export type Figure = {
  name: string;
  unit: keyof typeof units;
  value: number;
  /** The same work or state without procsup; null where there is none. */
  floor: number | null;
  target?: Target;
};

/** The lowest value that `share` of all samples do not exceed; 0.5 is the median. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const rank = Math.max(0, Math.ceil(share * sorted.length) - 1);
  return sorted[rank] ?? Number.NaN;
}

export function median(samples: readonly number[]): number {
  return quantile(samples, 0.5);
}

const head = ["", "procsup", "floor", "ratio", "target", ""];

/** Aligned columns, one figure a line; what misses its target says so in capitals. */
export function table(figures: readonly Figure[]): string {
  const lines = [head, ...figures.map(cells)];
  const widths = head.map((_, column) =>
    Math.max(...lines.map((line) => line[column]?.length ?? 0)),
  );
  return lines
    .map((line) => line.map((cell, column) => align(cell, column, widths)).join("  "))
    .map((line) => line.trimEnd())
    .join("\n");
}

function align(cell: string, column: number, widths: readonly number[]): string {
  const width = widths[column] ?? 0;
  return column === 0 || column >= 4 ? cell.padEnd(width) : cell.padStart(width);
}

function cells({ name, unit, value, floor, target }: Figure): string[] {
  const ratio = floor === null || floor === 0 ? null : value / floor;
  return [
    name,
    inUnit(value, unit),
    floor === null ? "-" : inUnit(floor, unit),
    ratio === null ? "-" : inRatio(ratio),
    target === undefined ? "" : describe(target, unit),
    target === undefined
      ? ""
      : judge({ ratio, value, difference: floor === null ? null : value - floor }, target),
  ];
}

function inUnit(value: number, unit: Figure["unit"]): string {
  const { digits, text } = units[unit];
  const format = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return `${value.toLocaleString("en", format)}${text}`;
}

function inRatio(ratio: number): string {
  return `${ratio.toFixed(2)} x`;
}

function describe({ of, is, bound }: Target, unit: Figure["unit"]): string {
  const sign = is === "at most" ? "<=" : ">=";
  if (of === "ratio") return `${sign} ${bound} x`;
  return `${sign} ${of === "difference" ? "floor + " : ""}${inUnit(bound, unit)}`;
}

function judge(all: Record<Target["of"], number | null>, { of, is, bound }: Target): string {
  const measured = all[of];
  if (measured === null || Number.isNaN(measured)) return "not measured";
  const met = is === "at most" ? measured <= bound : measured >= bound;
  return met ? "ok" : "MISSED";
}
