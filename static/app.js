// What every page needs and HTML cannot do: the theme button, times by the reader's own clock,
// boxes that scroll by key, forms that are sent once, and plain words when a request fails.
const toggle = document.getElementById("theme-toggle");
const themes = ["auto", "light", "dark"];

function showTheme() {
  toggle.textContent = `Theme: ${document.documentElement.dataset.theme ?? "auto"}`;
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
  if (next === "auto") {
    delete root.dataset.theme;
    localStorage.removeItem("theme");
  } else {
    root.dataset.theme = next;
    localStorage.setItem("theme", next);
  }
  showTheme();
});
showTheme();

// On a phone the navigation is wider than the screen: where one is must be in sight.
document.querySelector(".project-nav [aria-current]")?.scrollIntoView({ inline: "nearest", block: "nearest" });

// --- times --------------------------------------------------------------------------------------
function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    const two = (number) => String(number).padStart(2, "0");
    const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
    const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    time.textContent = time.dataset.format === "time" ? clock : `${day} ${clock}`;
    time.title = date.toLocaleString();
  }
}

// A time that one writes is read by one's own clock: the form says which that is, and so does the page.
for (const field of document.querySelectorAll("input[data-zone]")) {
  field.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";
  if (field.value) document.getElementById(field.dataset.zone).textContent = `your clock, ${field.value}`;
}

// --- what is wider or longer than its box can be scrolled with the arrow keys ---------------------------
const BOXES =
  ".scrolls, .table-scroll, .log, .markdown :is(pre, table, .formula, math:not([display=block])), :is(.answers.many, .answers.many > .answer):not(:has(input, button))";

function openBoxes(root) {
  for (const box of root.querySelectorAll(BOXES)) {
    if (box.scrollHeight > box.clientHeight || box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}

function prepareFragment(root) {
  showTimes(root);
  openBoxes(root);
}
prepareFragment(document);
document.body.addEventListener("htmx:load", (event) => prepareFragment(event.detail.elt));
addEventListener("resize", () => openBoxes(document)); // or the text has been made larger

// --- a double click sends a plain form once -----------------------------------------------------------
const AGAIN_MS = 3000;
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("[hx-post], [hx-get], [method=dialog]")) return;
  if (event.timeStamp - (form.dataset.sent ?? -Infinity) < AGAIN_MS) return event.preventDefault();
  form.dataset.sent = event.timeStamp;
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// --- what one passes on goes to the clipboard, where the browser lets pages do so ----------------------
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

// --- what went wrong ------------------------------------------------------------------------------
// Over the page, not in it: nothing moves, and it is in sight wherever one has scrolled to.
const alerts = document.getElementById("alerts");

function showAlert(text) {
  const alert = document.createElement("p");
  alert.className = "notice error";
  alert.textContent = text;
  alerts.replaceChildren(alert);
}

// A fragment that refreshes itself tries again by itself; only what somebody sent is worth a word.
function isSent(event) {
  const { verb, elt } = event.detail.requestConfig ?? {};
  return verb === "post" && elt.matches("form, button, a");
}

const UNREACHABLE = "The server cannot be reached. Send it again when you are connected.";
const WORDS = {
  403: "You were signed out or in meanwhile. Reload the page, and send it again.",
  404: "This is not here any more, or you may not see it any more. Reload the page.",
};

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.body.addEventListener(name, (event) => {
    if (isSent(event)) showAlert(UNREACHABLE);
  });
}
document.body.addEventListener("htmx:responseError", (event) => {
  if (!isSent(event)) return;
  const sorry = "The server had a problem. Send it again in a moment.";
  showAlert(WORDS[event.detail.xhr.status] ?? sorry);
});
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (isSent(event)) alerts.replaceChildren();
});
