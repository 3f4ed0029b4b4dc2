// Objects that are not Kubernetes' own, a JSON list on stdin: each has the fields that its type has and no others, as
// TypeScript sees it, and values that its validator takes (required fields, enumerations, patterns).
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const PACKAGES = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const OPTIONS = {
  noEmit: true,
  strict: true,
  skipLibCheck: true,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
  types: [],
};

const group = (object) => object.apiVersion.split("/")[0];
const name = (object) => `${object.kind} ${object.metadata.name}`;
const module = (object) => `@kubernetes-models/${PACKAGES[group(object)]}/${object.apiVersion}/${object.kind}`;

function typed(object, index) {
  const type = `I${object.kind}`;
  return `import type { ${type} } from "${module(object)}";\nexport const object${index}: ${type} = ${JSON.stringify(object)};\n`;
}

function wrongTypes(objects) {
  const files = new Map(objects.map((object, index) => [fileURLToPath(new URL(`object${index}.mts`, import.meta.url)), object]));
  const texts = new Map([...files.keys()].map((file, index) => [file, typed(objects[index], index)]));
  const host = ts.createCompilerHost(OPTIONS);
  const { getSourceFile, fileExists, readFile } = host;
  host.fileExists = (file) => texts.has(file) || fileExists(file);
  host.readFile = (file) => texts.get(file) ?? readFile(file);
  host.getSourceFile = (file, target) =>
    texts.has(file) ? ts.createSourceFile(file, texts.get(file), target) : getSourceFile(file, target);
  const program = ts.createProgram([...files.keys()], OPTIONS, host);
  return ts.getPreEmitDiagnostics(program).map((found) => {
    const object = files.get(found.file?.fileName);
    return `${object ? name(object) : found.file?.fileName}: ${ts.flattenDiagnosticMessageText(found.messageText, "\n  ")}`;
  });
}

async function wrongValues(object) {
  try {
    const { [object.kind]: Model } = await import(module(object));
    new Model(object).validate();
    return [];
  } catch (error) {
    return [`${name(object)}: ${error.message}`];
  }
}

const objects = JSON.parse(readFileSync(0, "utf8"));
const unknown = objects.filter((object) => !(group(object) in PACKAGES)).map((object) => `${name(object)}: no schema for it`);
const known = objects.filter((object) => group(object) in PACKAGES);
const wrong = [...unknown, ...(known.length ? wrongTypes(known) : []), ...(await Promise.all(known.map(wrongValues))).flat()];
for (const line of wrong) console.error(`chart: ${line}`);
process.exit(wrong.length ? 1 : 0);
