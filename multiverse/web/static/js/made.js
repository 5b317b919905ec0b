// Keys that were just made: the one moment in which their secrets can be seen, copied and saved.

import { build, codeBlock, find, setHidden, setText } from "./dom.js";
import { plural } from "./format.js";

/** A cell that a spreadsheet would take for a formula gets an apostrophe (OWASP, CSV injection). */
function cell(value) {
  const text = /^[=+\-@\t\r\n＝＋－＠]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function asCsv(keys) {
  const lines = keys.map(({ name, email, key }) => [name, email ?? "", key].map(cell).join(","));
  return `${["name,email,key", ...lines].join("\r\n")}\r\n`;
}

let address = null;

function forget() {
  if (address !== null) {
    URL.revokeObjectURL(address);
    address = null;
  }
  find("#made-secret").replaceChildren();
  find("#made-actions").replaceChildren();
}

/** Shows the secrets of `keys` until they are put away. */
export function showMade(keys) {
  forget();
  const card = find("#made-card");
  if (keys.length === 1) {
    setText(find("#made-title"), `The key of ${keys[0].name}`);
    setText(find("#made-once"), "Copy it now: it is shown this once. The gateway itself keeps only what it hashes to.");
    find("#made-secret").replaceChildren(codeBlock(keys[0].key, "Copy the key"));
  } else {
    const csv = asCsv(keys);
    address = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
    setText(find("#made-title"), `${plural(keys.length, "key")} made`);
    setText(find("#made-once"), "Copy them now: they are shown this once. The gateway itself keeps only what they hash to.");
    find("#made-secret").replaceChildren(codeBlock(csv.trimEnd(), "Copy all"));
    find("#made-actions").replaceChildren(build("a", { class: "quiet", href: address, download: "new-keys.csv" }, "Save as CSV"));
  }
  find("#made-close").onclick = () => {
    forget();
    setHidden(card, true);
    find("#new-key").focus();
  };
  setHidden(card, false);
  card.focus();
  card.scrollIntoView({ block: "nearest" });
}
