function draw(panel) {
  const spec = JSON.parse(panel.querySelector("script").textContent);
  const place = panel.querySelector("div");
  vegaEmbed(place, spec, { renderer: "svg", actions: false }).then(({ view }) =>
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.link) location.href = item.datum.link;
    })
  );
}
for (const panel of document.querySelectorAll(".panel")) {
  const folded = panel.closest("details");
  // A panel is as wide as its place, which has no width before it is shown.
  if (folded) folded.addEventListener("toggle", () => draw(panel), { once: true });
  else draw(panel);
}
function unfold() {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = row; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (row) row.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", unfold);
unfold();
