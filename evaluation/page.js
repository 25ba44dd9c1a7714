"use strict";
// Sorting: every header of a sortable table becomes a button. Numbers are compared as numbers, gaps go to the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const cell = (row, place) => row.cells[place].textContent.trim();
  for (const head of table.tHead.rows[0].cells) {
    if (head.textContent === "") continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("n");
      const compare = (a, b) => numeric ? parseFloat(a) - parseFloat(b) : a.localeCompare(b, "en", {numeric: true});
      const rows = [...body.rows].map((row) => [cell(row, head.cellIndex), row]);
      const isGap = (text) => text === "" || (numeric && !/^[-+]?(\d|inf)/.test(text));
      const value = (text) => text.replace(/^([-+]?)inf$/, "$1Infinity").replaceAll(",", "");
      const full = rows.filter(([text]) => !isGap(text));
      full.sort(([a], [b]) => (up ? 1 : -1) * (compare(value(a), value(b)) || 0));
      body.append(...full.map(([, row]) => row), ...rows.filter(([text]) => isGap(text)).map(([, row]) => row));
    });
  }
}
// Before and after: the first two pictures of a comparison come to lie on one another, cut where the slider stands.
for (const figure of document.querySelectorAll(".compare")) {
  const slider = figure.querySelector("input");
  const cut = () => figure.style.setProperty("--cut", slider.value + "%");
  slider.addEventListener("input", cut);
  figure.classList.add("live");
  cut();
}
