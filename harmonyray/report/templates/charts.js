"use strict";
// The values at a step, under the pointer or by the arrow keys. Without this script the charts stand as they are.
for (const figure of document.querySelectorAll("[data-chart]")) {
  const data = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg[role=img]");
  const cursor = svg.querySelector(".cursor");
  const said = figure.querySelector(".at");
  const values = [...figure.querySelectorAll(".legend b")];
  let place = -1;

  const show = (index) => {
    place = index;
    const point = data.at[index];
    cursor.style.visibility = point ? "visible" : "hidden";
    said.textContent = point ? `step ${point[0]}` : "";
    if (point) {
      cursor.setAttribute("x1", point[1]);
      cursor.setAttribute("x2", point[1]);
    }
    values.forEach((value, i) => {
      value.textContent = point ? data.values[i][point[0]] ?? "–" : value.dataset.last;
    });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * data.width;
    let best = 0;
    data.at.forEach((point, i) => {
      if (Math.abs(point[1] - x) < Math.abs(data.at[best][1] - x)) best = i;
    });
    show(best);
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const from = place < 0 ? (by > 0 ? -1 : data.at.length) : place;
    show(Math.min(data.at.length - 1, Math.max(0, from + by)));
  });
}
