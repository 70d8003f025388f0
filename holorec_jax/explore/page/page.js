// The page's state is a history; all else follows from it by asking.

import { $, ask, button, count, latest, make, numbers, soft } from "./dom.js";
import { showFound } from "./found.js";
import { suggest } from "./suggest.js";
import { showNode } from "./tree.js";

/** Of {item, title}, oldest first. */
let chosen = [];
/** The item that really came next, hidden from the recommender. */
let held = null;
let run = null;

const add = (entry) => setHistory([...chosen, entry], held);

function setHistory(entries, next = null) {
  chosen = entries;
  held = next;
  $("history").replaceChildren(
    ...chosen.map(({ item, title }, place) =>
      make(
        "li",
        {},
        make(
          "div",
          { class: "line" },
          make("span", { class: "text" }, title, " ", soft(item)),
          button("✕", `Remove ${title}`, () => {
            setHistory(chosen.filter((_, i) => i !== place), held);
            $("item").focus();
          })
        )
      )
    )
  );
  const read =
    chosen.length > run.max_history
      ? ` Only the latest ${run.max_history} are read.`
      : "";
  $("history-note").textContent = chosen.length
    ? `Latest last.${read}`
    : "Nothing yet.";
  $("held").hidden = !held;
  $("held").replaceChildren(
    ...(held ? [soft("Hidden, came next: "), held.title] : [])
  );
  $("clear").hidden = !chosen.length && !held;
  recommend();
}

const takeUser = latest(async (user) => {
  const { history } = await ask("history", { user });
  return () => {
    const hide = $("hold").checked && history.length > 1;
    if (hide) setHistory(history.slice(0, -1), history.at(-1));
    else setHistory(history);
  };
});

const takeAnyUser = latest(async () => {
  const [{ user }] = await ask("users", { limit: 1 });
  return () => takeUser(user);
});

const recommend = latest(async () => {
  const list = $("found");
  const status = $("status");
  list.setAttribute("aria-busy", "true");
  status.textContent =
    "Searching … the first search takes longer, since it is compiled.";
  try {
    const answer = await ask("recommend", {}, {
      history: chosen.map(({ item }) => item),
      k: $("k").valueAsNumber,
      exclude_seen: $("unseen").checked,
    });
    return () => {
      list.setAttribute("aria-busy", "false");
      status.textContent = showFound(answer, chosen, held, run.by_level);
    };
  } catch (error) {
    list.replaceChildren();
    status.textContent = "";
    throw error;
  }
});

function describe() {
  const name = `${run.system.replaceAll("_", "-")} on ${run.data}`;
  document.title = `${name}: explore`;
  $("name").textContent = name;
  $("facts").textContent = [
    count(run.items, "item"),
    count(run.users, "user"),
    count(run.events, "event"),
    `${run.levels} levels of up to ${run.codes} codes`,
    `checkpoint of step ${numbers.format(run.step)}`,
  ].join(" · ");
}

function listen() {
  suggest(
    $("item"),
    $("items"),
    (query) => ask("items", { query }),
    ({ item, title }) => [title, " ", soft(item)],
    add
  );
  suggest(
    $("user"),
    $("users"),
    (query) => ask("users", { query }),
    ({ user, events }) => [user, " ", soft(count(events, "item"))],
    ({ user }) => takeUser(user)
  );
  document.addEventListener("add", ({ detail }) => add(detail));
  $("random").addEventListener("click", takeAnyUser);
  $("clear").addEventListener("click", () => {
    setHistory([]);
    $("item").focus();
  });
  $("k").addEventListener("change", recommend);
  $("unseen").addEventListener("change", recommend);
}

const start = latest(async () => {
  run = await ask("run");
  return () => {
    describe();
    listen();
    setHistory([]);
    showNode([]);
  };
});

start();
