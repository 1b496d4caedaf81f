// Makes the two programs, one file each, and dist/THIRD-PARTY.txt: what they carry of others, with the notice
// that each licence wants in every copy. Run by `npm run build`.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const { metafile } = await build({
  entryPoints: { procsup: "client/cli/cli.ts", procsupd: "daemon/procsupd.ts" },
  outdir: "dist",
  outExtension: { ".js": ".cjs" },
  bundle: true,
  platform: "node",
  target: "node20",
  format: "cjs",
  external: ["koffi"],
  define: { "process.env.NODE_ENV": '"production"' },
  legalComments: "none",
  logLevel: "warning",
  metafile: true,
});

/** The folder of the package that a file belongs to; none for our own. */
function packageOf(file) {
  return /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file) ?? [];
}

/** Throws for a package without such a file: somebody has to look what its licence asks for. */
function noticeOf(folder) {
  const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (file === undefined) throw new Error(`${folder} is bundled and has no LICENSE`);
  const text = readFileSync(`${folder}/${file}`, "utf8").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
}

const folders = new Set(Object.keys(metafile.inputs).flatMap(packageOf));
const notices = [...folders].map(noticeOf).sort();
const head = "procsup and procsupd, the programs in this folder, contain these packages.\n";
writeFileSync("dist/THIRD-PARTY.txt", [head, ...notices].join(`\n${"-".repeat(80)}\n\n`));
