// Reads the contract in api/ with the tools a user of it would have: every JSON schema is compiled and its examples are judged
// by it, and api/served/asyncapi.yaml, with its examples, goes through AsyncAPI's own parser. An error or a warning ends with exit code 1.
//
//   node check.mjs <path of api/>
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import parser from '@asyncapi/parser';
import Ajv from 'ajv';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

const api = resolve(process.argv[2] ?? 'api');
let complaints = 0;
const complain = (text) => {
  complaints++;
  console.error(text);
};

// Schemas refer to one another by file name, or by the $id they have.
const schemas = readdirSync(join(api, 'schemas'))
  .filter((name) => name.endsWith('.json'))
  .map((name) => ({ name, schema: JSON.parse(readFileSync(join(api, 'schemas', name), 'utf8')) }));
const drafts = new Map();
for (const { name, schema } of schemas) {
  const is2020 = (schema.$schema ?? '').includes('2020-12');
  if (!drafts.has(is2020)) {
    const ajv = new (is2020 ? Ajv2020 : Ajv).default({ strict: true, strictRequired: false, allowUnionTypes: true, allErrors: true });
    addFormats.default(ajv);
    drafts.set(is2020, ajv);
  }
  try {
    drafts.get(is2020).addSchema(schema, schema.$id ?? name);
  } catch (error) {
    complain(`${name}: ${error.message}`);
  }
}
for (const { name, schema } of schemas) {
  try {
    const ajv = drafts.get((schema.$schema ?? '').includes('2020-12'));
    const validate = ajv.getSchema(schema.$id ?? name);
    if (!validate) continue; // said above
    for (const [i, example] of (schema.examples ?? []).entries()) {
      if (!validate(example)) complain(`${name}: example ${i}: ${ajv.errorsText(validate.errors)}`);
    }
  } catch (error) {
    complain(`${name}: ${error.message}`);
  }
}

const file = join(api, 'served', 'asyncapi.yaml');
const { document, diagnostics } = await new parser.Parser().parse(readFileSync(file, 'utf8'), { source: file });
// What is only information is taste, such as that there is a newer version of AsyncAPI.
for (const d of diagnostics.filter((d) => d.severity <= parser.DiagnosticSeverity.Warning)) {
  complain(`asyncapi.yaml:${d.range.start.line + 1}: ${parser.DiagnosticSeverity[d.severity]}: ${d.message} (${d.code}) at ${d.path.join('.')}`);
}
if (!document) complain('asyncapi.yaml: the parser made no document of it');

// The parser compares examples with their schemas only in AsyncAPI 2. What it hands out has every reference replaced and every trait
// applied; the marks it leaves in schemas are no keywords of JSON Schema, hence not strict.
const loose = new Ajv.default({ strict: false, allErrors: true });
addFormats.default(loose);
for (const message of document?.messages().all() ?? []) {
  if (message.examples().isEmpty()) complain(`asyncapi.yaml: message ${message.id()} has no example`);
  for (const example of message.examples().all()) {
    for (const [part, schema, value] of [
      ['payload', message.payload(), example.payload()],
      ['headers', message.headers(), example.headers()],
    ]) {
      const validate = loose.compile(schema.json());
      if (!validate(value)) complain(`asyncapi.yaml: message ${message.id()}, example ${example.name()}: ${loose.errorsText(validate.errors, { dataVar: part })}`);
    }
  }
}

if (complaints > 0) {
  console.error(`${complaints} complaints`);
  process.exit(1);
}
console.log(
  `${schemas.length} schemas; AsyncAPI ${document.version()}: ${document.channels().all().length} channels, ` +
    `${document.operations().all().length} operations, ${document.messages().all().length} messages`,
);
