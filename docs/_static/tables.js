// Long tables can be sorted: a click on a column's head sorts by it, a second one the other way round, a third one
// restores the order of the page. Tables that are wider than the page can be scrolled with the keyboard. Landmarks and
// headings of the theme get the names that screen readers need.
"use strict";

const LONG = 8;

function key(cell) {
  const text = cell.textContent.trim();
  const number = text.replaceAll(",", "").match(/^[-+\u2212]?\d+(\.\d+)?/);
  return number === null ? text.toLowerCase() : Number(number[0].replace("\u2212", "-"));
}

function compare(one, other) {
  if (typeof one === typeof other) return one < other ? -1 : one > other ? 1 : 0;
  return typeof one === "number" ? -1 : 1; // numbers before words, and what is empty last
}

function sortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  if (heads.filter((head) => head.textContent.trim() !== "").length < 2) return; // a list of facts
  heads.forEach((head, column) => {
    if (head.textContent.trim() === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const now = before === null ? "descending" : before === "descending" ? "ascending" : null;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      const sorted = [...rows];
      if (now !== null) {
        head.setAttribute("aria-sort", now);
        const sign = now === "ascending" ? 1 : -1;
        sorted.sort((a, b) => {
          const [one, other] = [key(a.cells[column]), key(b.cells[column])];
          if (one === "" || other === "") return one === other ? 0 : one === "" ? 1 : -1;
          return sign * compare(one, other);
        });
      }
      body.append(...sorted);
    });
  });
}

document.addEventListener("DOMContentLoaded", () => {
  let tables = 0;
  document.querySelectorAll('p.caption[role="heading"]').forEach((one) => one.setAttribute("aria-level", "2"));
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "All pages");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
  for (const table of document.querySelectorAll("article table.docutils")) {
    if (table.tHead !== null) {
      for (const head of [...table.tHead.rows[0].cells].filter((one) => one.textContent.trim() === "")) {
        head.replaceWith(document.createElement("td")); // a head without words is none
      }
      const linked = table.tHead.querySelector("a") !== null; // whose rows are properties, such as the task cards
      if (!linked && table.tBodies.length === 1 && table.tBodies[0].rows.length >= LONG) sortable(table);
    }
    const box = table.closest(".table-wrapper");
    if (box !== null && box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      tables += 1;
      box.setAttribute("aria-label", `Wide table ${tables}`);
    }
  }
  for (const code of document.querySelectorAll("article .highlight pre")) {
    if (code.scrollWidth > code.clientWidth) code.tabIndex = 0;
  }
});
