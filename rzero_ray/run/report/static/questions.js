// Makes the page's table of questions one that sorts, pages and filters. DataTables precedes it in
// the same module. Text of a model is compared as text and never made into HTML: the filters read
// the cells' text, and no column is searched by the library, which would read their HTML.
const table = document.getElementById("questions");
const filters = document.getElementById("question-filters");
const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
const lines = rows.map((cells) => cells.join("\n").toLowerCase());
const wanted = { text: "" };

function allows(index) {
  if (!lines[index].includes(wanted.text)) return false;
  return chosen.every(({ column, value }) => !value || rows[index][column] === value);
}

const chosen = [...filters.querySelectorAll("select")].map((select) => {
  const choice = { column: Number(select.dataset.column), value: "" };
  select.addEventListener("input", () => {
    choice.value = select.value;
    shown.draw();
  });
  return choice;
});

filters.querySelector("input").addEventListener("input", (event) => {
  wanted.text = event.target.value.trim().toLowerCase();
  shown.draw();
});

const numbers = [...table.tHead.rows[0].cells].flatMap((cell, k) =>
  cell.classList.contains("figure") ? [k] : [],
);
const shown = new DataTable(table, {
  autoWidth: false, // it would lay out copies of the longest cells
  order: [],
  pageLength: 25,
  lengthMenu: [25, 100, 500],
  columnDefs: [
    { targets: numbers, type: "num" },
    { targets: "_all", type: "string", searchable: false },
  ],
  layout: { topStart: "info", topEnd: null, bottomStart: "pageLength", bottomEnd: "paging" },
  language: {
    info: "_START_ to _END_ of _TOTAL_ questions",
    infoEmpty: "no question",
    infoFiltered: "(of _MAX_ on this page)",
    lengthMenu: "_MENU_ a page",
    zeroRecords: "No question on this page is like that.",
  },
});
shown.search.fixed("filters", (search, cells, index) => allows(index));
shown.draw();
filters.hidden = false;
