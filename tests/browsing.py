"""What tests in a headless Chromium share: a page, and what is read of it."""


def opened(browser, url, width=1400, **more):
    """A page and what its console has said; it asks nothing of another machine."""
    view = browser.new_page(viewport={"width": width, "height": 900}, **more)
    said = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(url)
    return view, said


FAINT = """() => {
  const canvas = document.createElement("canvas");
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = text => {
    draw.clearRect(0, 0, 1, 1);
    draw.fillStyle = text;
    draw.fillRect(0, 0, 1, 1);
    return [...draw.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => below.map((b, i) => (top[i] * top[3] + b * (255 - top[3])) / 255);
  const paper = e => e === null ? [255, 255, 255, 255]
    : over(rgba(getComputedStyle(e).backgroundColor), paper(e.parentElement));
  const light = colour => colour.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + [0.2126, 0.7152, 0.0722][i] * c, 0);
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e);
    const shown = e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!walk.currentNode.textContent.trim() || !shown || e.closest("script, style")) continue;
    const below = paper(e);
    const ink = over(rgba(e instanceof SVGElement ? style.fill : style.color), below);
    const [high, low] = [light(ink), light(below)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${walk.currentNode.textContent.trim()}`);
  }
  return found;
}"""

COVERED = """() => {
  const found = [];
  for (const svg of document.querySelectorAll(".panel svg")) {
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")]
      .filter(t => t.textContent.trim() && t.checkVisibility({ opacityProperty: true }))
      .map(t => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([text, a], i) => {
      if (a.left < box.left - 2 || a.right > box.right + 2 || a.top < box.top - 2)
        found.push(`${text} is cut`);
      for (const [other, b] of texts.slice(i + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 3) found.push(`${text} covers ${other}`);
      }
    });
  }
  return found;
}"""
