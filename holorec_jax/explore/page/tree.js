// The code tree: one node at a time.

import {
  $,
  addButton,
  ask,
  button,
  count,
  latest,
  make,
  soft,
} from "./dom.js";

const SHOWN = 24; // children, until more are asked for

/** Shows the node that these codes lead to, and goes there if told to. */
export const showNode = latest(async (prefix, jump = false) => {
  const node = await ask("tree", { prefix: prefix.join(",") });
  return () => {
    showPath(node);
    $("tree-note").textContent = note(node);
    showBelow(node, SHOWN);
    if (jump) {
      $("tree-title").focus({ preventScroll: true });
      $("tree-section").scrollIntoView({ block: "start" });
    }
  };
});

function showPath({ prefix, names }) {
  const steps = ["All items", ...prefix].map((code, depth) => {
    const name = depth ? names[depth - 1] : "";
    const step = button(code, depth ? `Code ${code}, ${name}` : code, () =>
      showNode(prefix.slice(0, depth), true)
    );
    if (name) step.title = name;
    if (depth === prefix.length) step.setAttribute("aria-current", "true");
    return make("li", {}, step);
  });
  $("path").replaceChildren(...steps);
}

function note({ prefix, names, items, children }) {
  const name = names.at(-1) ? `${names.at(-1)}: ` : "";
  const below = children.length
    ? `; level ${prefix.length + 1} has ${count(children.length, "code")},` +
      " the fullest first"
    : "";
  return `${name}${count(items, "item")}${below}.`;
}

function showBelow(node, shown) {
  const { prefix, items, children, leaf } = node;
  $("tree").replaceChildren(
    ...children.slice(0, shown).map((child) => card(child, prefix, items)),
    ...leaf.map((entry) =>
      make(
        "li",
        {},
        make(
          "div",
          { class: "line" },
          make("span", { class: "text" }, entry.title, " ", soft(entry.item)),
          addButton(entry)
        )
      )
    )
  );
  const hidden = Math.max(children.length - shown, 0);
  $("more").hidden = !hidden;
  $("more").textContent = `Show ${hidden} more`;
  $("more").onclick = () => {
    showBelow(node, Infinity);
    $("tree").children[shown].querySelector("button").focus();
  };
}

/** A child: its code, how many items are below it, and some of them. */
function card({ code, name, items, titles }, prefix, all) {
  const bar = make("div", { class: "bar" });
  bar.style.setProperty("--share", `${(100 * items) / all}%`);
  return make(
    "li",
    {},
    make(
      "button",
      {
        type: "button",
        class: "link",
        onclick: () => showNode([...prefix, code], true),
      },
      `${code}${name && `: ${name}`}`
    ),
    " ",
    make("span", { class: "soft number" }, count(items, "item")),
    bar,
    make("p", { class: "soft" }, titles.join(" · "))
  );
}
