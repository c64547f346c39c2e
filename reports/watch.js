/* Beside the page of a running sweep: what runs now, and a new page where there is one, at the same place. */
"use strict";
(() => {
  const kept = "aiqn " + location.pathname;
  const details = () => [...document.querySelectorAll("main details")];
  const fields = () => [...document.querySelectorAll(".bar input, .bar select")];
  const before = JSON.parse(sessionStorage.getItem(kept) || "null");
  if (before) {
    sessionStorage.removeItem(kept);
    details().forEach((one, i) => { one.open = before.open[i] ?? one.open; });
    fields().forEach((one, i) => { one.value = before.values[i] ?? ""; });
    if (fields().length) fields()[0].dispatchEvent(new Event("input", { bubbles: true }));
    scrollTo(0, before.y);
  }
  const panel = document.createElement("div");
  panel.id = "live";
  panel.className = "qualifier";
  document.querySelector("main header").append(panel);
  const line = (text, log) => {
    const item = document.createElement(log ? "details" : "p");
    const head = log ? document.createElement("summary") : item;
    head.textContent = text;
    if (log) {
      const words = document.createElement("pre");
      words.textContent = log;
      item.append(head, words);
    }
    panel.append(item);
  };
  let version = null;
  const look = async () => {
    try {
      const live = await (await fetch("live")).json();
      if (version !== null && live.version !== version && !(document.activeElement || document.body).closest(".bar")) {
        const state = { y: scrollY, open: details().filter((one) => !panel.contains(one)).map((one) => one.open) };
        sessionStorage.setItem(kept, JSON.stringify({ ...state, values: fields().map((one) => one.value) }));
        location.reload();
        return;
      }
      if (version === null) version = live.version;
      if (!panel.querySelector("[open]")) {
        panel.replaceChildren();
        line(live.line);
        for (const one of live.running) line(one.trial + " on " + one.host + ": step " + one.step + " of " + one.steps, one.log || " ");
        for (const one of live.failed) line(one.trial + ": " + one.why, one.log || " ");
        if (live.events.length) line("Last: " + live.events.join(", "));
      }
    } catch { panel.textContent = "The server has ended; this page is as it was."; }
    setTimeout(look, 3000);
  };
  look();
})();
