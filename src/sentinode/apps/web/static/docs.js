// The OpenAPI document as a page: each route with its parameters, body and answers, and the types that these are of.

const byId = (id) => document.getElementById(id);

function made(tag, content = [], of = {}) {
  const element = Object.assign(document.createElement(tag), of);
  element.append(...[content].flat());
  return element;
}

const words = (text) => (text ?? "").split(/(`+[^`]+`+)/).map((part) => (part.startsWith("`") ? made("code", part.replaceAll("`", "")) : part));
const placeOf = (method, path) => `${method}-${path}`.replace(/[^a-z0-9]+/gi, "-");

// A schema in words, with links to the types that have a name.
function typeOf(schema) {
  if (!schema) return ["nothing"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [made("a", name, { href: `#type-${name}` })];
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.flatMap((choice, k) => [...(k ? [" or "] : []), ...typeOf(choice)]);
  if (schema.enum || schema.const !== undefined) return [(schema.enum ?? [schema.const]).map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items ?? {})];
  if (schema.type === "object" && typeof schema.additionalProperties === "object") return [...typeOf(schema.additionalProperties), " by name"];
  if (schema.title && schema.properties) return [made("a", schema.title, { href: `#type-${schema.title}` })];
  return [[schema.type ?? "anything", schema.format && `(${schema.format})`, boundsOf(schema)].filter(Boolean).join(" ")];
}

function boundsOf(schema) {
  const told = { exclusiveMinimum: "above #", minimum: "from #", exclusiveMaximum: "below #", maximum: "to #", maxLength: "of at most # characters" };
  return Object.entries(told).filter(([name]) => schema[name] !== undefined).map(([name, text]) => text.replace("#", schema[name])).join(", ");
}

function table(head, rows, label) {
  const cells = (tag, row) => made("tr", row.map((cell) => made(tag, cell)));
  const body = made("table", [made("thead", cells("th", head)), made("tbody", rows.map((row) => cells("td", row)))]);
  return made("div", body, { className: "wide", tabIndex: 0, role: "region", ariaLabel: label });
}

function route(method, path, said) {
  const named = `${method.toUpperCase()} ${path}`;
  const box = made("section", [made("h2", made("code", named)), made("p", words(said.summary))], { id: placeOf(method, path) });
  if (said.description) box.append(made("p", words(said.description)));
  const parameters = said.parameters ?? [];
  if (parameters.length) box.append(made("h3", "Parameters"), table(["name", "where", "type", "what it says"], parameters.map((of) => [
    made("code", of.name), of.required ? `${of.in}, needed` : of.in, typeOf(of.schema),
    [...words(of.description ?? of.schema?.description), ...(of.schema?.default === undefined ? [] : [` Default: ${of.schema.default}.`])],
  ]), `Parameters of ${named}`));
  const bodies = Object.entries(said.requestBody?.content ?? {});
  if (bodies.length) box.append(made("h3", "Body, one of"), table(["kind", "type"], bodies.map(([kind, of]) => [
    made("code", kind), of.schema?.properties ? Object.entries(of.schema.properties).flatMap(([name, each]) => [made("code", name), ": ", ...typeOf(each)]) : typeOf(of.schema),
  ]), `Body of ${named}`));
  const answers = Object.entries(said.responses ?? {}).flatMap(([status, of]) => {
    const kinds = Object.entries(of.content ?? { "": {} });
    return kinds.map(([kind, { schema }]) => [status, made("code", kind), typeOf(schema && Object.keys(schema).length ? schema : null), words(of.description)]);
  });
  box.append(made("h3", "Answers"), table(["status", "kind", "type", "what it says"], answers, `Answers of ${named}`));
  return box;
}

function type(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([property, of]) => [made("code", property), typeOf(of), words(of.description)]);
  const box = made("section", [made("h3", name), made("p", words(schema.description))], { id: `type-${name}` });
  if (rows.length) box.append(table(["name", "type", "what it says"], rows, `Fields of ${name}`));
  return box;
}

async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  const said = await answer.json();
  byId("about").textContent = `Version ${said.info.version}. ${said.info.description}`;
  const routes = Object.entries(said.paths).flatMap(([path, of]) => Object.entries(of).map(([method, each]) => [method, path, each]));
  byId("index").replaceChildren(...routes.map(([method, path, each]) => made("li", [
    made("a", made("code", `${method.toUpperCase()} ${path}`), { href: `#${placeOf(method, path)}` }), ` ${each.summary ?? ""}`,
  ])));
  byId("routes").replaceChildren(...routes.map((each) => route(...each)));
  const problems = Object.values(said.paths).flatMap(Object.values).flatMap((of) => Object.values(of.responses ?? {})).map((of) => of.content?.["application/problem+json"]?.schema).filter(Boolean);
  const types = { ...said.components?.schemas, ...(problems.length ? { [problems[0].title]: problems[0] } : {}) };
  byId("types").replaceChildren(...Object.entries(types).map((each) => type(...each)));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show().catch((error) => { byId("about").textContent = `The OpenAPI document cannot be read: ${error.message}`; });
