"use strict";
// Pointing at a cell of the heat map tells its numbers; a click keeps them, with the command and the way to the curve.
(() => {
  const table = document.querySelector(".heat");
  const told = document.querySelector(".heat-told");
  const more = document.querySelector(".heat-more");
  const curve = more.querySelector("a");
  const asked = told.textContent;
  let kept = null;
  const cell = (event) => event.target.closest("button[data-told]");
  const tell = (button) => (told.textContent = button ? button.dataset.told : asked);
  for (const kind of ["mouseover", "focusin"]) table.addEventListener(kind, (event) => tell(cell(event) || kept));
  for (const kind of ["mouseleave", "focusout"]) table.addEventListener(kind, () => tell(kept));
  table.addEventListener("click", (event) => {
    const button = cell(event);
    if (!button) return;
    if (kept) kept.removeAttribute("aria-pressed");
    kept = button;
    kept.setAttribute("aria-pressed", true);
    tell(kept);
    more.hidden = false;
    more.querySelector("code").textContent = kept.closest("tr").dataset.command;
    curve.hidden = !kept.dataset.figure;
    curve.href = `#explorer-${kept.dataset.figure}`;
  });
  curve.addEventListener("click", () => {
    const host = document.getElementById(curve.hash.slice(1));
    const choice = [kept.dataset.choice, Number(kept.dataset.place)];
    if (host.explorer) host.explorer.pick(...choice);
    else host.first = choice;
  });
})();
