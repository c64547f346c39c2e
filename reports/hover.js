/* Shows the title of the mark that is nearest to the pointer, at once and also on touch. Without this script browsers
   show the same titles themselves, after a moment. */
"use strict";
(() => {
  const box = document.createElement("div");
  box.className = "hover";
  box.hidden = true;
  document.body.append(box);
  for (const title of document.querySelectorAll("main svg title")) {
    title.parentNode.dataset.label = title.textContent;
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  const ring = [[0, 0]];
  for (const radius of [4, 8, 12]) {
    for (let i = 0; i < 8; i++) ring.push([radius * Math.cos(i * Math.PI / 4), radius * Math.sin(i * Math.PI / 4)]);
  }
  const nearest = (x, y) => {
    for (const [dx, dy] of ring) {
      const mark = document.elementFromPoint(x + dx, y + dy);
      if (mark && mark.dataset && mark.dataset.label) return mark;
    }
    return null;
  };
  let shown = null;
  const show = (event) => {
    const mark = event.target.closest && event.target.closest("svg") ? nearest(event.clientX, event.clientY) : null;
    if (mark !== shown) {
      if (shown) shown.classList.remove("on");
      if (mark) mark.classList.add("on");
      shown = mark;
      box.hidden = !mark;
      box.textContent = mark ? mark.dataset.label : "";
    }
    if (mark) {
      const { width, height } = box.getBoundingClientRect();
      const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 8);
      const above = event.clientY + 16 + height > document.documentElement.clientHeight;
      box.style.left = Math.max(8, left) + "px";
      box.style.top = (above ? event.clientY - height - 12 : event.clientY + 16) + "px";
    }
  };
  addEventListener("pointermove", show);
  addEventListener("pointerdown", show);
  addEventListener("scroll", () => { box.hidden = true; }, { passive: true });
})();
