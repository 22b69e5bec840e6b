// Keys of the comparing page. Every key presses a button that is on the page: what the buttons do,
// they do without JavaScript too.
const aliases = { ArrowLeft: "1", ArrowRight: "2", S: "s", U: "u", G: "g", z: "u", Z: "u" };
const sheet = document.getElementById("keys");

function isTyping(target) {
  return target.closest("input:not([type=radio]), textarea, select, [contenteditable]") !== null;
}

function press(button) {
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 160);
  button.click();
}

function showSheet() {
  if (!sheet.open) sheet.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (sheet.open || isTyping(event.target)) return;
  const key = aliases[event.key] ?? event.key;
  if (key === "?") return showSheet();
  if (key === "g") return document.getElementById("guidelines")?.toggleAttribute("open");
  const button = document.querySelector(`#comparison button[data-key="${CSS.escape(key)}"]`);
  if (!button || key === "Enter" || (event.target.type === "radio" && key.startsWith("Arrow"))) return;
  event.preventDefault();
  press(button);
});

// One verdict per showing: from the press until the answer is there the buttons do nothing more.
// The form is gone from the page by then, so the event says which form it is about.
let isSending = false;
function isAboutVerdict(event) {
  return event.detail.requestConfig.elt.matches("#verdict, #undo");
}
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (!isAboutVerdict(event)) return;
  if (isSending) event.preventDefault();
  isSending = true;
});
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (isAboutVerdict(event)) isSending = false;
});

function prepare() {
  const button = document.getElementById("show-keys");
  button.hidden = false;
  button.addEventListener("click", showSheet);
}
prepare();

document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "comparison") return;
  prepare();
  scrollTo(0, 0);
  // Not to a button: Enter or Space pressed twice must not judge what nobody has read.
  document.getElementById("main").focus({ preventScroll: true });
});
