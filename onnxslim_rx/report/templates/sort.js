"use strict";
// Sorts a table by the column whose heading is clicked; unknown values stay at the end.
function sortable(table) {
  const body = table.tBodies[0];
  const headings = Array.from(table.tHead.rows[0].cells);
  const key = (row, column) => {
    const cell = row.cells[column];
    return "v" in cell.dataset ? cell.dataset.v : cell.textContent.trim();
  };
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = Array.from(body.rows, (row) => [key(row, column), row]);
      rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
// Shows the rows that contain what is typed.
function filterable(table) {
  const input = document.createElement("input");
  input.id = "filter";
  input.type = "search";
  input.placeholder = "Filter layers";
  input.setAttribute("aria-label", "Filter layers");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
  table.parentElement.before(input);
}
document.querySelectorAll("table.sortable").forEach(sortable);
const layers = document.getElementById("layers");
if (layers && layers.tBodies[0].rows.length > 8) filterable(layers);
