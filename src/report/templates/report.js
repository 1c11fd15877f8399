"use strict";
document.documentElement.classList.add("js");

// Headings of sortable tables become buttons; a second press turns the order round.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => {
        const cell = row.cells[column];
        return head.dataset.kind !== "text" && cell.dataset.sort ? Number(cell.dataset.sort) : cell.textContent;
      };
      const compare = (x, y) => (typeof x === "number" && typeof y === "number" ? (x === y ? 0 : x < y ? -1 : 1) : String(x).localeCompare(String(y)));
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort((x, y) => (down ? -1 : 1) * compare(x[0], y[0]));
      body.append(...rows.map((pair) => pair[1]));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

// A search field above a table keeps the rows that contain all of its words.
for (const input of document.querySelectorAll("input[data-filter]")) {
  const place = input.closest(".filter");
  const rows = [...place.nextElementSibling.querySelectorAll("tbody tr")];
  const count = place.querySelector("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
}

// Of several choices one is seen at a time; on paper all of them are.
for (const picker of document.querySelectorAll("[data-picker]")) {
  const choices = [...picker.children];
  if (choices.length < 2) continue;
  const label = document.createElement("label");
  label.className = "pick";
  label.append(`${picker.dataset.picker}: `);
  const select = document.createElement("select");
  choices.forEach((choice, k) => select.append(new Option(choice.dataset.label, String(k))));
  const show = () => choices.forEach((choice, k) => { choice.hidden = k !== Number(select.value); });
  select.addEventListener("change", show);
  label.append(select);
  picker.prepend(label);
  show();
}
