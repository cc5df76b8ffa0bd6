const body = document.querySelector("#passages tbody");
for (const button of document.querySelectorAll("button[data-by]")) {
  button.addEventListener("click", () => {
    const by = button.dataset.by, sign = by === "number" ? 1 : -1;
    const value = row => parseFloat(row.dataset[by]);
    const order = (a, b) => value(a) === value(b) ? 0 : sign * (value(a) - value(b));
    const place = (a, b) => order(a, b) || a.dataset.number - b.dataset.number;
    body.append(...[...body.rows].sort(place));
  });
}
