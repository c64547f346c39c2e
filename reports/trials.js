/* The table of all trials: searched, filtered and sorted; a click on a point of a figure leads to its trial. Without
   this script the table is there as it is. */
"use strict";
(() => {
  const links = [...document.querySelectorAll("nav.contents a")];
  const sections = links.map((link) => document.querySelector(link.getAttribute("href")));
  const follow = () => {
    const passed = sections.filter((one) => one.getBoundingClientRect().top < innerHeight / 3).length;
    links.forEach((link, i) => link.toggleAttribute("aria-current", i === Math.max(0, passed - 1)));
  };
  addEventListener("scroll", follow, { passive: true });
  follow();

  const table = document.getElementById("every");
  if (!table) return;
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row) => ({ row, cells: [...row.cells].map((cell) => cell.textContent) }));
  const bar = document.createElement("p"), count = document.createElement("span"), box = document.createElement("input");
  bar.className = "bar";
  box.type = "search";
  box.placeholder = "Search trials";
  box.setAttribute("aria-label", "Search trials");
  bar.append(box);
  const choices = [1, 2, 3].map((column) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", heads[column].textContent);
    const values = [...new Set(rows.map((one) => one.cells[column]))].sort();
    select.append(new Option("any " + heads[column].textContent.toLowerCase(), ""));
    for (const value of values) select.append(new Option(value, value));
    bar.append(select);
    return { select, column };
  });
  bar.append(count);
  table.closest(".scroll").before(bar);
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const { row, cells } of rows) {
      const text = cells.join(" ").toLowerCase();
      const kept = choices.every(({ select, column }) => !select.value || cells[column] === select.value)
        && words.every((word) => text.includes(word));
      row.hidden = !kept;
      seen += kept;
    }
    count.textContent = seen + " of " + rows.length;
  };
  bar.addEventListener("input", filter);
  filter();

  const units = { ms: 0.001, s: 1, min: 60, h: 3600 };
  const number = (text) => {
    const found = /^(-?[\d,.]+(?:e[-+]?\d+)?)(?: (ms|s|min|h))?$/.exec(text);
    return found ? parseFloat(found[1].replaceAll(",", "")) * (units[found[2]] ?? 1) : null;
  };
  const sort = (column, down) => {
    const key = ({ cells }) => [number(cells[column]), cells[column]];
    const order = (a, b) => {
      const [[x, s], [y, t]] = [key(a), key(b)];
      if (s === "—" || t === "—") return (s === "—") - (t === "—");
      const way = x === null || y === null ? s.localeCompare(t, "en", { numeric: true }) : x - y;
      return down ? -way : way;
    };
    rows.sort(order);
    body.append(...rows.map((one) => one.row));
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
  });

  const trial = (mark) => {
    const name = /^[\w.]+-(?:search|final)-\d+/.exec(mark && mark.dataset ? mark.dataset.label || "" : "");
    return name && document.getElementById("trial-" + name[0]);
  };
  let before = null;  /* on touch, the first tap shows what the second one opens */
  addEventListener("pointerdown", () => { before = document.querySelector("svg .on"); }, { capture: true });
  addEventListener("click", (event) => {
    const mark = event.target.closest && event.target.closest("svg") && document.querySelector("svg .on");
    const row = trial(mark);
    if (!row || (event.pointerType !== "mouse" && before !== mark)) return;
    const link = row.querySelector("a");
    if (link) location.href = link.href;
    else {
      row.hidden = false;
      location.hash = row.id;
    }
  });
})();
