// Holds dashboards against Grafana's published schema: node dashboards.mjs NODE_MODULES FILE...
//
// The schema is published as types (@grafana/schema), so a compiler does the checking: each file becomes a literal that has to be of
// the dashboard's type, and a literal may have no property that its type has not.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [folder, ...files] = process.argv.slice(2);
const modules = resolve(folder);
const ts = createRequire(`${modules}/`)("typescript");
const types = `${modules}/@grafana/schema/dist/types/raw`;

// The schema leaves what a panel's plugin takes to the plugin's own; the plugins that are used here are put in. Of queries it says
// nothing: those are Prometheus's.
const prelude = `
import type { Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel, VariableModel } from "${types}/dashboard/x/types.gen";
import type * as BarGauge from "${types}/composable/bargauge/panelcfg/x/types.gen";
import type * as Stat from "${types}/composable/stat/panelcfg/x/types.gen";
import type * as Table from "${types}/composable/table/panelcfg/x/types.gen";
import type * as TimeSeries from "${types}/composable/timeseries/panelcfg/x/types.gen";

// What JSON has in the place of an enumeration, a function or an optional.
type Plain<T> = T extends string ? \`\${T}\` : T extends number | boolean | null | undefined ? T :
  T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

interface Query {
  datasource: { type: "prometheus"; uid: "\${datasource}" };
  editorMode: "code";
  expr: string;
  format: "time_series" | "table";
  instant: boolean;
  range: boolean;
  legendFormat: string;
  refId: string;
}

type Of<Type, Options, Custom> = Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> & {
  id: number;
  title: string;
  description: string;
  type: Type;
  targets: Query[];
  options: Partial<Options>;
  fieldConfig: Omit<FieldConfigSource, "defaults"> & { defaults: Omit<FieldConfig, "custom"> & { custom?: Partial<Custom> } };
};

type Panels =
  | Of<"bargauge", BarGauge.Options, never>
  | Of<"stat", Stat.Options, never>
  | Of<"table", Table.Options, Table.FieldConfig>
  | Of<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>
  | RowPanel;

type Board = Plain<Omit<Dashboard, "panels" | "uid" | "title"> & { uid: string; title: string; panels: Panels[] }>;
`;

let wrong = 0;
for (const file of files) {
  const json = readFileSync(file, "utf8");
  JSON.parse(json);
  const name = `${resolve(file)}.ts`;
  const text = `${prelude}export const dashboard: Board = ${json};\n`;
  const options = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (path) => path === name || fileExists(path);
  host.getSourceFile = (path, ...rest) =>
    path === name ? ts.createSourceFile(path, text, ts.ScriptTarget.ES2022, true) : getSourceFile(path, ...rest);
  const program = ts.createProgram([name], options, host);
  const skipped = prelude.split("\n").length - 1;
  for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
    wrong += 1;
    const at = diagnostic.file?.getLineAndCharacterOfPosition(diagnostic.start ?? 0);
    const line = at ? at.line + 1 - skipped : 0;
    console.error(`${file}:${line}: ${ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n  ")}`);
  }
}
process.exit(wrong === 0 ? 0 : 1);
