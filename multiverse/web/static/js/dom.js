// Building and changing elements. Text is only ever set as text: nothing here takes HTML.

export function find(selector, within = document) {
  const found = within.querySelector(selector);
  if (found === null) {
    throw new Error(`there is no ${selector} on this page`);
  }
  return found;
}

/** An element: `build("a", {href: "/", class: "wide", dataset: {id: 1}, onclick: listener}, "text", child, …)`. */
export function build(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      continue;
    }
    if (name === "dataset") {
      Object.assign(element.dataset, value);
    } else if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets the text only where it differs, so that selections and screen readers are left alone. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) {
    element.textContent = wanted;
  }
}

export function setHidden(element, hidden) {
  if (element.hidden !== hidden) {
    element.hidden = hidden;
  }
}

export function setAttribute(element, name, value) {
  if (value === null) {
    element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, String(value));
  }
}

/** Runs `work` while `button` shows that it waits; a second click meanwhile does nothing. */
export async function whileBusy(button, work) {
  if (button.getAttribute("aria-busy") === "true") {
    return undefined;
  }
  button.setAttribute("aria-busy", "true");
  button.setAttribute("aria-disabled", "true");
  try {
    return await work();
  } finally {
    button.removeAttribute("aria-busy");
    button.removeAttribute("aria-disabled");
  }
}

/** A copy button for whatever `read()` returns. */
export function copyButton(read, label = "Copy") {
  const button = build("button", { type: "button", class: "quiet copy" }, label);
  let timer;
  button.addEventListener("click", async () => {
    const copied = await copyText(read());
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    clearTimeout(timer);
    timer = setTimeout(() => {
      button.textContent = label;
    }, 1500);
  });
  return button;
}

/** The clipboard needs https or localhost; elsewhere the old way of a selected text area still works. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = build("textarea", { class: "away", "aria-hidden": "true", tabindex: "-1" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

/** A block of code with its copy button. */
export function codeBlock(text, label = "Copy") {
  const code = build("code", {}, text);
  return build("div", { class: "snippet" }, build("pre", { tabindex: "0" }, code), copyButton(() => code.textContent, label));
}
