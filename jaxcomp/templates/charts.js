const drawn = new Set();
function draw(panel) {
  if (drawn.has(panel)) return;
  drawn.add(panel);
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
