// Elements, words for numbers, and questions to the server.

export const $ = (id) => document.getElementById(id);
export const numbers = new Intl.NumberFormat("en");

/** An element; its text stays text and never becomes HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const soft = (text) => make("span", { class: "soft" }, text);

export const button = (text, label, onclick) =>
  make("button", { type: "button", "aria-label": label, onclick }, text);

/** Adds an item to the history, which page.js keeps. */
export const addButton = (entry) =>
  button("Add", `Add ${entry.title}`, () =>
    document.dispatchEvent(new CustomEvent("add", { detail: entry }))
  );

export const count = (n, noun) =>
  `${numbers.format(n)} ${noun}${n === 1 ? "" : "s"}`;

export const percent = (share) =>
  share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;

/** Asks the server; with a body by POST. Errors say what and how. */
export async function ask(path, parameters = {}, body = undefined) {
  const query = new URLSearchParams(parameters);
  let response;
  try {
    response = await fetch(`api/${path}?${query}`, body && {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("No answer: does launch/explore.py still run?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  throw new Error(
    answer ? `${answer.what}. ${answer.how}` : `Status ${response.status}.`
  );
}

function tell(error) {
  $("error").textContent = error ? error.message : "";
  $("error").hidden = !error;
}

/**
 * Makes a task that may be asked for again while it runs: of several only the
 * latest shows what came of it. A task returns how to show that.
 */
export function latest(task) {
  let newest = 0;
  return async (...given) => {
    const mine = ++newest;
    let show = null;
    let failure = null;
    try {
      show = await task(...given);
    } catch (error) {
      failure = error;
    }
    if (mine !== newest) return;
    tell(failure);
    if (show) show();
  };
}
