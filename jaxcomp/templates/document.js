function unfold() {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = row; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (row) row.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", unfold);
unfold();
// A row is shown where, for every word that is typed, a word of its name begins so.
for (const input of document.querySelectorAll("input[type=search]")) {
  const rows = [...input.closest("section").querySelectorAll("tbody tr")];
  const said = row => [...row.querySelectorAll("td.left")]
    .flatMap(cell => cell.textContent.toLowerCase().split(/\s+/));
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows)
      row.hidden = !words.every(word => said(row).some(found => found.startsWith(word)));
  });
}
// Paper has no folds.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
  for (const panel of document.querySelectorAll("details .panel")) draw(panel);
});
addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
