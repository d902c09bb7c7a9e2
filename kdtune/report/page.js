// A click on the head of a column sorts its table: by number where both cells begin with one, else as text.
document.querySelectorAll("table").forEach(function (table) {
  table.querySelectorAll("th").forEach(function (head, column) {
    head.addEventListener("click", function () {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        const one = a.cells[column].textContent, other = b.cells[column].textContent;
        const x = parseFloat(one), y = parseFloat(other);
        const order = isNaN(x) || isNaN(y) ? one.localeCompare(other) : x - y;
        return rising ? order : -order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (each) { each.open = true; });
});
