// Shows /openapi.json: operations by tag with parameters, bodies and answers, and the types below. Text only, never HTML.
const element = (name, text, ...children) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
};

const typeName = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.items) return `list of ${typeName(schema.items)}`;
  if (schema.oneOf || schema.anyOf) return (schema.oneOf ?? schema.anyOf).map(typeName).filter(Boolean).join(" or ");
  return [schema.type].flat().filter(Boolean).join(" or ");
};

const table = (rows) => {
  const body = element("tbody");
  for (const row of rows) body.append(element("tr", "", ...row.map((cell) => element("td", cell))));
  return element("table", "", body);
};

const operation = (method, path, item) => {
  const details = element("details");
  const summary = element("summary");
  summary.append(element("code", `${method.toUpperCase()} ${path}`), ` ${item.summary ?? ""}`);
  details.append(summary);
  if (item.description) details.append(element("p", item.description));
  const parameters = (item.parameters ?? []).map((p) => [p.name, p.in, typeName(p.schema), p.description ?? ""]);
  if (parameters.length) details.append(element("h4", "Parameters"), table(parameters));
  const body = Object.entries(item.requestBody?.content ?? {}).map(([kind, one]) => [kind, typeName(one.schema)]);
  if (body.length) details.append(element("h4", "Body"), table(body));
  const answers = Object.entries(item.responses).map(([status, one]) => [
    status,
    Object.values(one.content ?? {}).map((content) => typeName(content.schema)).join(", "),
    one.description,
  ]);
  details.append(element("h4", "Answers"), table(answers));
  return details;
};

const show = (api) => {
  const main = document.getElementById("main");
  main.replaceChildren();
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, one] of Object.entries(item)) {
      const tag = one.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), operation(method, path, one)]);
    }
  }
  for (const [tag, operations] of groups) main.append(element("section", "", element("h2", tag), ...operations));
  const types = Object.entries(api.components.schemas).map(([name, schema]) =>
    element("details", "", element("summary", name), element("pre", JSON.stringify(schema, null, 2))),
  );
  main.append(element("section", "", element("h2", "Types"), ...types));
};

document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const one of document.querySelectorAll("details")) one.hidden = !one.textContent.toLowerCase().includes(wanted);
});

fetch("/openapi.json")
  .then((response) => response.json())
  .then(show)
  .catch((error) => document.getElementById("main").replaceChildren(element("p", `Cannot be read: ${error.message}`)));
