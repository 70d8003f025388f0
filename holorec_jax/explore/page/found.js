// What is recommended, and the way to each item.

import { $, addButton, count, make, percent, soft } from "./dom.js";
import { showNode } from "./tree.js";

/**
 * Shows an answer.
 *
 * @param chosen the history that was asked for
 * @param held what came next, or null
 * @param byLevel whether the system decodes codes level by level
 * @returns {string} the outcome in a sentence
 */
export function showFound(answer, chosen, held, byLevel) {
  const { from_prior, recommendations } = answer;
  const seen = new Set(chosen.map(({ item }) => item));
  const hit = recommendations.findIndex(({ item }) => item === held?.item);
  const decoded = byLevel && !from_prior;
  $("found").replaceChildren(
    ...recommendations.map((entry, place) => {
      const marks = [];
      if (place === hit) {
        marks.push(" ", make("span", { class: "hit" }, "✓ came next"));
      }
      if (seen.has(entry.item)) marks.push(" ", soft("· in the history"));
      const way = make(
        "details",
        {},
        make("summary", {}, decoded ? "Thoughts and codes" : "Codes"),
        make("ol", { class: "chain" }, ...chain(entry, decoded))
      );
      way.open = decoded && place === 0;
      return make(
        "li",
        {},
        make(
          "div",
          { class: "line" },
          make(
            "span",
            { class: "text" },
            `${entry.title} `,
            make("span", { class: "soft number" }, probability(entry.score)),
            ...marks
          ),
          addButton(entry)
        ),
        way
      );
    })
  );
  return outcome(answer, held, hit);
}

function probability(score) {
  return `${percent(Math.exp(score))} (log ${score.toFixed(2).replace("-", "−")})`;
}

function outcome({ from_prior, recommendations }, held, hit) {
  const found = from_prior
    ? "Without a history: the most popular items."
    : `${count(recommendations.length, "item")}, most probable first.`;
  if (!held) return found;
  return hit < 0
    ? `${found} What came next is not among them.`
    : `${found} What came next is number ${hit + 1}.`;
}

/** A link for each level: what was thought, the code, and what it leaves. */
function chain({ title, chain: links }, decoded) {
  return links.map(({ level, thought, code, name, items, titles }) => {
    const prefix = links.slice(0, level + 1).map((link) => link.code);
    const words = `code ${code}${name && `: ${name}`}`;
    const verb = !decoded ? "" : thought.length ? "and writes " : "writes ";
    return make(
      "li",
      {},
      make("p", { class: "soft" }, `Level ${level + 1}`),
      ...thoughts(thought),
      make(
        "p",
        {},
        soft(verb),
        make(
          "button",
          {
            type: "button",
            class: "link",
            title: "Show in the code tree",
            onclick: () => showNode(prefix, true),
          },
          words
        )
      ),
      make("p", { class: "soft" }, left(items, titles, title))
    );
  });
}

function thoughts(thought) {
  if (!thought.length) return [];
  return [
    make("p", { class: "soft" }, "thinks of"),
    ...thought.map(([name, share]) =>
      make(
        "div",
        { class: "thought" },
        make("span", { class: "soft number" }, percent(share)),
        make("span", {}, name)
      )
    ),
  ];
}

function left(items, titles, title) {
  if (items === 1) return "1 item left: this one";
  const others = titles.filter((other) => other !== title);
  return `${count(items, "item")} left, such as ${others.join(" · ")}`;
}
