// Code that calls the gateway as this page did: openai-python, openai-node, curl.

export const LANGUAGES = [
  ["python", "Python"],
  ["node", "Node"],
  ["curl", "curl"],
];

const baseUrl = () => `${location.origin}/v1`;

/** A JavaScript value as Python writes it. */
function pythonLiteral(value, indent = "") {
  if (value === null) {
    return "None";
  }
  if (typeof value === "boolean") {
    return value ? "True" : "False";
  }
  if (Array.isArray(value)) {
    const inner = `${indent}    `;
    return value.length ? `[\n${value.map((item) => inner + pythonLiteral(item, inner)).join(",\n")},\n${indent}]` : "[]";
  }
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonLiteral(item, indent)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

function python(body, key) {
  const fields = Object.entries(body).map(([name, value]) => `    ${name}=${pythonLiteral(value, "    ")},`);
  const call = `client.chat.completions.create(\n${fields.join("\n")}\n)`;
  const head = `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(baseUrl())}, api_key=${JSON.stringify(key)})\n`;
  if (!body.stream) {
    return `${head}\nanswer = ${call}\nprint(answer.choices[0].message.content)\n`;
  }
  return `${head}\nstream = ${call}\nfor chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)\nprint()\n`;
}

function node(body, key) {
  const head = `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: ${JSON.stringify(baseUrl())}, apiKey: ${JSON.stringify(key)} });\n`;
  const call = `await client.chat.completions.create(${JSON.stringify(body, null, 2)})`;
  if (!body.stream) {
    return `${head}\nconst answer = ${call};\nconsole.log(answer.choices[0].message.content);\n`;
  }
  return `${head}\nconst stream = ${call};\nfor await (const chunk of stream) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n}\nconsole.log();\n`;
}

/** Text inside single quotes of a shell: a quote ends them, stands escaped, and begins them again. */
function shellQuoted(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function curl(body, key) {
  const known = key === NO_KEY ? "" : `  -H ${shellQuoted(`Authorization: Bearer ${key}`)} \\\n`;
  const options = body.stream ? "curl -N" : "curl";
  return `${options} ${baseUrl()}/chat/completions \\\n  -H 'Content-Type: application/json' \\\n${known}  -d ${shellQuoted(JSON.stringify(body, null, 2))}\n`;
}

const NO_KEY = "not-needed";
const WRITERS = { python, node, curl };

/** The code for a chat completion with this body. */
export function snippet(language, body, key = NO_KEY) {
  return WRITERS[language](body, key);
}

/** The shortest thing to say to a model. */
export function greeting(model) {
  return { model, messages: [{ role: "user", content: "Hello! How are you?" }] };
}

/** The line that lends the machine on which it is typed; for sh, cmd and PowerShell alike. */
export function lendLine(key) {
  const program = /^Win/.test(navigator.platform) ? "curl.exe" : "curl"; // PowerShell 5 calls something else curl.
  return `${program} -X POST ${location.origin}/admin/lend -H "Authorization: Bearer ${key}"`;
}
