// Keys of the comparing page. Every key presses a button that is on the page: what the buttons do,
// they do without JavaScript too.
const sheet = document.getElementById("keys");
const BOUNCE_MS = 250; // nobody has read anything this soon: it is the last press, bouncing

function isTyping(target) {
  return target.closest("input:not([type=radio], [type=checkbox]), textarea, select, [contenteditable]") !== null;
}

function showSheet() {
  fillSheet();
  if (!sheet.open) sheet.showModal();
}

function press(button) {
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 160);
  button.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (sheet.open || isTyping(event.target)) return;
  // Arrows move in a row of ranks and in what is wider or longer than its box.
  if (event.key.startsWith("Arrow") && event.target.closest(".ranks, .options, .scrolls, .markdown")) return;
  // Enter is for what has the focus; only from elsewhere does it send the ranking.
  if (event.key === "Enter" && event.target.closest("a, button, summary, input")) return;
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const key = meant(letter);
  if (pressedInVerdict(key)) return event.preventDefault();
  if (act(pageKeys, key)) return event.preventDefault();
  const button = document.querySelector(`#comparison button[data-key~="${CSS.escape(key)}"]`);
  if (!button) return;
  event.preventDefault();
  press(button);
});

function act(keys, key) {
  keys[key]?.();
  return key in keys;
}

const pageKeys = {
  "?": showSheet,
  g: () => document.querySelector("#guidelines > summary")?.click(),
};

// --- one verdict per showing -----------------------------------------------------------------------
// From the press until the answer is there the buttons do nothing more, and the second half of a
// double click must not judge the next pair. The form is gone from the page when its answer is
// there, so the event says which form it is about.
let isSending = false;

function isAboutVerdict(event) {
  return event.detail.requestConfig.elt.matches("#verdict, #undo, #unsent");
}

document.addEventListener(
  "click",
  (event) => {
    if (!event.target.closest("#comparison button[type=submit]")) return;
    const isFresh = document.getElementById("comparison").hasAttribute("aria-busy");
    if (event.detail > 1 || isFresh) event.preventDefault();
  },
  { capture: true },
);
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (!isAboutVerdict(event)) return;
  if (isSending) event.preventDefault();
  isSending = true;
});
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (isAboutVerdict(event)) isSending = false;
});

// --- the first thing that is done with a comparison --------------------------------------------------
// In milliseconds since it was to be seen; the verdict and the draft bring it along. After a reload
// it is still the first: this tab remembers it.
let seenAt = null;

function measured() {
  return document.querySelector("#verdict [name=first_interaction_ms]");
}

function measureAnew() {
  seenAt = null;
  const field = measured();
  if (!field) return;
  const [assignment, ms] = JSON.parse(sessionStorage.getItem("first-interaction")) ?? [];
  if (assignment === field.form.elements.assignment.value) field.value = ms;
  requestAnimationFrame((now) => { seenAt = now; }); // not before the page is to be seen
}

// Scrolling by wheel, finger, key or bar, each by what moves it: the page scrolls by itself too. No
// event of a script counts, and none that came before, or is the last press, bouncing.
function noteFirst(event) {
  const field = measured();
  if (!field || field.value || seenAt === null || event.timeStamp < seenAt) return;
  if (!event.isTrusted || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.getElementById("comparison").hasAttribute("aria-busy")) return;
  field.value = Math.round(event.timeStamp - seenAt);
  sessionStorage.setItem("first-interaction", JSON.stringify([field.form.elements.assignment.value, field.value]));
}
for (const name of ["keydown", "pointerdown", "click", "wheel", "touchstart"]) {
  document.addEventListener(name, noteFirst, { capture: true, passive: true });
}

// --- what is new on the page ----------------------------------------------------------------------
function prepare(hasJudged) {
  measureAnew();
  foldGuidelines(hasJudged);
  const keys = document.getElementById("show-keys");
  if (!keys) return; // in a qualification, or with nothing to compare
  keys.hidden = false;
  keys.addEventListener("click", showSheet);
}

// New guidelines are there to be read: they are open until the first verdict under them. Who opens
// them has them open from then on, under later versions too; on a wide screen that is beside the
// answers. This browser remembers it, per project.
function guidelinesWanted(guidelines) {
  const key = `guidelines-${guidelines.dataset.project}`;
  const [version, state] = (localStorage.getItem(key) ?? "").split(":");
  return {
    state: state === "open" || version === guidelines.dataset.version ? state : null,
    keep: (state) => localStorage.setItem(key, `${guidelines.dataset.version}:${state}`),
  };
}

function foldGuidelines(hasJudged) {
  const guidelines = document.getElementById("guidelines");
  if (!guidelines) return;
  const { state, keep } = guidelinesWanted(guidelines);
  if (hasJudged && !state) keep("folded");
  if (state === "folded" || (hasJudged && !state)) guidelines.open = false;
  guidelines.querySelector("summary").addEventListener("click", () => keep(guidelines.open ? "folded" : "open"));
  guidelines.querySelector(".markdown").scrollTop = readUpTo[guidelines.dataset.version] ?? 0;
}

// Where one was in the guidelines, one is when the next answers are there.
const readUpTo = {};
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const guidelines = event.detail.target.querySelector("#guidelines[open]");
  if (guidelines) readUpTo[guidelines.dataset.version] = guidelines.querySelector(".markdown").scrollTop;
});

// While the page is open somebody may write new ones: then it asks for what there is to read.
function lookForNews() {
  const version = document.getElementById("guidelines")?.dataset.version;
  const news = document.getElementById("guideline-news");
  if (version && news && version !== news.dataset.version) htmx.trigger(news, "guidelines-changed");
}

const said = document.getElementById("said");
prepare(false);

document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "comparison") return;
  prepare(isAboutVerdict(event));
  lookForNews();
  const comparison = document.getElementById("comparison");
  const news = newsOn(comparison);
  if (!isAboutVerdict(event)) return tell(comparison, news);
  said.textContent = news;
  scrollTo(0, 0);
  // Not to a button: Enter or Space pressed twice must not judge what nobody has read.
  // But in a conversation it is for them to say something again.
  (comparison.querySelector("[autofocus]") ?? comparison).focus({ preventScroll: true });
  comparison.setAttribute("aria-busy", "true");
  setTimeout(() => comparison.removeAttribute("aria-busy"), BOUNCE_MS);
});

// --- to who cannot see that something is new: what is swapped in is not announced by itself ------------
function newsOn(comparison) {
  const news = comparison.querySelector(".error, .empty h2, #progress, [role=status]");
  return news?.textContent.replace(/\s+/g, " ").trim() ?? "";
}

// Of a page that looks by itself, only what has changed. Whoever had the focus in what has gone, or
// nowhere, finds it where the news are.
function tell(comparison, news) {
  if (said.textContent === news) return;
  said.textContent = news;
  if (document.activeElement === document.body) comparison.focus({ preventScroll: true });
}
