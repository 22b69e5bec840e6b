// Keys of the comparing page. Every key presses a button that is on the page: what the buttons do,
// they do without JavaScript too.
const aliases = { ArrowLeft: "1", ArrowRight: "2", z: "u" };
const sheet = document.getElementById("keys");
const BOUNCE_MS = 250; // nobody has read anything this soon: it is the last press, bouncing

function isTyping(target) {
  return target.closest("input:not([type=radio]), textarea, select, [contenteditable]") !== null;
}

function showSheet() {
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
  if (event.key.startsWith("Arrow") && event.target.closest(".ranks, .scrolls, .markdown")) return;
  // Enter is for what has the focus; only from elsewhere does it send the ranking.
  if (event.key === "Enter" && event.target.closest("a, button, summary, input")) return;
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const key = aliases[letter] ?? letter;
  if (answersToRank().length && act(rankingKeys, key)) return event.preventDefault();
  if (act(pageKeys, key)) return event.preventDefault();
  const button = document.querySelector(`#comparison button[data-key="${CSS.escape(key)}"]`);
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
  g: () => document.getElementById("guidelines")?.toggleAttribute("open"),
};

// --- three answers or more: a digit ranks the answer in hand and takes up the next one -------------
const rankingKeys = { j: () => takeUp(1), k: () => takeUp(-1) };
for (const digit of "123456789") rankingKeys[digit] = () => giveRank(digit);

function answersToRank() {
  return [...document.querySelectorAll("#verdict .answer:has(.ranks)")];
}

function isRanked(answer) {
  return answer.querySelector("input:checked") !== null;
}

function inHand() {
  const answers = answersToRank();
  return document.activeElement.closest(".answer") ?? answers.find((a) => !isRanked(a));
}

function focusOn(answer) {
  (answer.querySelector("input:checked") ?? answer.querySelector("input")).focus();
  answer.scrollIntoView({ block: "nearest" });
}

function takeUp(step) {
  const answers = answersToRank();
  const held = document.activeElement.closest(".answer");
  const place = held ? answers.indexOf(held) + step : answers.findIndex((a) => !isRanked(a));
  focusOn(answers[Math.min(Math.max(place, 0), answers.length - 1)]);
}

function giveRank(digit) {
  const answer = inHand() ?? answersToRank()[0];
  const rank = answer.querySelector(`input[value="${digit}"]`);
  if (!rank) return;
  rank.click();
  focusOn(answersToRank().find((a) => !isRanked(a)) ?? answer);
}

function showRanking() {
  const groups = new Map();
  for (const answer of answersToRank().filter(isRanked)) {
    const rank = answer.querySelector("input:checked").value;
    const letter = answer.querySelector("h2").lastChild.textContent;
    groups.set(rank, [...(groups.get(rank) ?? []), letter]);
  }
  const ordered = [...groups].sort(([a], [b]) => a - b).map(([, letters]) => letters.join(" = "));
  document.getElementById("ranking").textContent = ordered.join(" > ");
}

document.addEventListener("change", (event) => {
  if (event.target.closest(".ranks")) showRanking();
});

// --- one verdict per showing -----------------------------------------------------------------------
// From the press until the answer is there the buttons do nothing more, and the second half of a
// double click must not judge the next pair. The form is gone from the page when its answer is
// there, so the event says which form it is about.
let isSending = false;

function isAboutVerdict(event) {
  return event.detail.requestConfig.elt.matches("#verdict, #undo");
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

// --- what is new on the page ----------------------------------------------------------------------
function prepare(hasJudged) {
  const keys = document.getElementById("show-keys");
  if (!keys) return; // nothing to compare at the moment
  keys.hidden = false;
  keys.addEventListener("click", showSheet);
  foldGuidelines(hasJudged);
}

// New guidelines are there to be read: they are open until the first verdict under them, or as long
// as one wants. What one wants is kept per project and version.
function guidelinesWanted(guidelines) {
  const key = `guidelines-${guidelines.dataset.project}`;
  const [version, state] = (localStorage.getItem(key) ?? "").split(":");
  return {
    state: version === guidelines.dataset.version ? state : null,
    keep: (state) => localStorage.setItem(key, `${guidelines.dataset.version}:${state}`),
  };
}

function foldGuidelines(hasJudged) {
  const guidelines = document.getElementById("guidelines");
  if (!guidelines) return;
  const { state, keep } = guidelinesWanted(guidelines);
  if (hasJudged && !state) keep("folded");
  if (state === "folded" || (hasJudged && !state)) guidelines.open = false;
  guidelines.addEventListener("toggle", () => keep(guidelines.open ? "open" : "folded"));
}

prepare(false);

document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "comparison") return;
  prepare(isAboutVerdict(event));
  if (!isAboutVerdict(event)) return; // the page looked by itself
  const comparison = document.getElementById("comparison");
  scrollTo(0, 0);
  // Not to a button: Enter or Space pressed twice must not judge what nobody has read.
  // But in a conversation it is for them to say something again.
  (comparison.querySelector("[autofocus]") ?? comparison).focus({ preventScroll: true });
  comparison.setAttribute("aria-busy", "true");
  setTimeout(() => comparison.removeAttribute("aria-busy"), BOUNCE_MS);
  // To who cannot see that everything is new. What is swapped in is not announced by itself.
  const news = comparison.querySelector(".error, .empty h2, #progress");
  document.getElementById("said").textContent = news.textContent.replace(/\s+/g, " ").trim();
});
