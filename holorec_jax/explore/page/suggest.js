// A combobox: suggests while one types.

import { latest, make, soft } from "./dom.js";

const PAUSE = 120; // milliseconds after a key

/**
 * Makes `input` suggest in `list`. Arrows choose, Enter takes, Escape closes.
 *
 * @param find query -> promise of options
 * @param describe option -> what its entry shows
 * @param take what to do with the option that is chosen
 */
export function suggest(input, list, find, describe, take) {
  let options = [];
  let active = -1;
  let timer = 0;

  function activate(place) {
    active = place;
    [...list.children].forEach((entry, i) =>
      entry.setAttribute("aria-selected", String(i === place))
    );
    const entry = list.children[place];
    input.setAttribute("aria-activedescendant", entry ? entry.id : "");
    if (entry) entry.scrollIntoView({ block: "nearest" });
  }

  function close() {
    clearTimeout(timer);
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    activate(-1);
  }

  function choose(place) {
    close();
    input.value = "";
    take(options[place]);
  }

  const open = latest(async () => {
    const found = await find(input.value);
    return () => {
      if (document.activeElement !== input) return;
      options = found;
      list.replaceChildren(
        ...options.map((option, i) =>
          make(
            "li",
            {
              role: "option",
              id: `${list.id}-${i}`,
              onclick: () => choose(i),
            },
            ...describe(option)
          )
        )
      );
      if (!options.length) {
        list.append(make("li", { role: "presentation" }, soft("no match")));
      }
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
      activate(options.length && input.value ? 0 : -1);
    };
  });

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(open, PAUSE);
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (list.hidden) open();
      else if (options.length) {
        const from = active < 0 && step < 0 ? 0 : active;
        activate((from + step + options.length) % options.length);
      }
    } else if (event.key === "Enter" && !list.hidden && active >= 0) {
      choose(active);
    } else if (event.key === "Escape") {
      close();
    }
  });
  input.addEventListener("click", () => list.hidden && open());
  input.addEventListener("blur", close);
  // A press on the list must not take the focus before it is a click.
  list.addEventListener("mousedown", (event) => event.preventDefault());
}
