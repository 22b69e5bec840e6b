// What is entered before a verdict is sent: ranks, by key, button or handle; what is asked after the
// choice; flags and highlights; and the draft of all of it. Fields of the form hold everything:
// without JavaScript they are filled in by hand. compare.js asks here first when a key is pressed.

function ballot() {
  return document.getElementById("verdict");
}

function fillSheet() {
  const keys = document.getElementById("verdict-keys");
  document.getElementById("sheet-verdict").replaceChildren(...(keys?.cloneNode(true).children ?? []));
}

// --- keys: a digit or letter is for the line or answer in hand, else for the choices ----------------------
function pressedInVerdict(key) {
  if (!ballot()) return false;
  if (key === "j" || key === "k") return takeUp(key === "j" ? 1 : -1);
  if (key === "h") return takeUpText();
  if (key === "Escape") return backToChoice();
  const selector = `input[data-key~="${CSS.escape(key)}"]`;
  const bar = [...ballot().querySelectorAll(`.verdict-bar ${selector}`)].find((i) => !i.closest(".steps"));
  const places = [held(".answer"), lineInHand(), answerInHand()];
  const input = places.find((place) => place?.querySelector(selector))?.querySelector(selector) ?? bar;
  if (!input) return false;
  // Nobody has read a comparison that is just there: this is the last press, bouncing.
  if (document.getElementById("comparison").hasAttribute("aria-busy")) return true;
  input.click();
  pulse(input.nextElementSibling);
  goOnFrom(input);
  return true;
}

function pulse(element) {
  element.classList.add("pressed");
  setTimeout(() => element.classList.remove("pressed"), 160);
}

function answers() {
  return [...ballot().querySelectorAll(".answer")].filter((answer) => answer.querySelector("input, [data-marks]"));
}

// The boxes that follow the choice: lines of buttons, and texts.
function stepStops() {
  if (!isReady()) return [];
  return [...ballot().querySelectorAll(".steps .line, .steps textarea")].filter((stop) => stop.checkVisibility());
}

function held(selector) {
  return document.activeElement.closest(`#verdict ${selector}`);
}

function isAnswered(line) {
  return line.querySelector("input:checked") !== null;
}

function unranked() {
  return answers().find((answer) => answer.querySelector(".ranks") && !isRanked(answer));
}

function isRanked(answer) {
  return answer.querySelector(".ranks input:checked") !== null;
}

function lineInHand() {
  if (!isReady()) return null;
  const lines = stepStops().filter((stop) => stop.matches(".line"));
  return held(".line") ?? lines.find((line) => !isAnswered(line)) ?? lines.at(-1);
}

function answerInHand() {
  return held(".answer") ?? unranked() ?? answers()[0];
}

function takeUp(step) {
  const stops = [...answers(), ...stepStops()];
  if (!stops.length) return false;
  const at = stops.findIndex((stop) => stop.contains(document.activeElement));
  const start = lineInHand() ?? unranked() ?? stops[0];
  focusOn(at < 0 ? start : stops[Math.min(Math.max(at + step, 0), stops.length - 1)]);
  return true;
}

function focusOn(stop) {
  if (!stop) return;
  const fields = ["input:checked", "input", "[data-marks]"].map((selector) => stop.querySelector(selector));
  (stop.matches("textarea") ? stop : fields.find(Boolean)).focus();
  stop.scrollIntoView({ block: "nearest" });
}

// After a choice, a rank or a line: to what is asked next.
function goOnFrom(input) {
  if (input.type === "checkbox") return;
  const next = unranked();
  if (input.closest(".ranks") && next) return focusOn(next);
  const stops = stepStops();
  const open = stops.find((stop) => (stop.matches(".line") ? !isAnswered(stop) : stop.ariaRequired === "true" && !stop.value));
  if (open) focusOn(open);
  else if (input.closest(".ranks")) focusOn(input.closest(".answer"));
  else if (!held(".steps")) document.activeElement.blur(); // Enter sends, whatever was pressed before
}

// What follows is folded away until something is chosen again; what was entered there stays.
function backToChoice() {
  if (!ballot().querySelector(".steps") || !isReady()) return false;
  document.activeElement.blur();
  ballot().removeAttribute("data-ready");
  return true;
}

document.addEventListener("click", (event) => {
  if (event.target.closest("#verdict [data-fold]")) backToChoice();
  if (event.target.closest("#verdict input:is([name=choice], .ranks input)")) showSteps();
});

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("#verdict textarea");
  if (!field) return;
  if (event.key === "Escape") field.blur();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  ballot().querySelector("button[data-key=Enter]").click();
});

// --- what is entered is shown --------------------------------------------------------------------------
function isReady() {
  return ballot().hasAttribute("data-ready");
}

function isChosen() {
  return ballot().querySelector(".verdict-bar input[name=choice]:checked") !== null;
}

function isRanking() {
  return ballot().querySelector(".ranks") !== null;
}

function showSteps() {
  ballot().toggleAttribute("data-ready", isChosen() || (isRanking() && !unranked()));
}

function showEntered() {
  const form = ballot();
  if (isRanking()) {
    showRanking();
    // Whoever finds all of them bad need not rank them.
    form.querySelector("button[data-key=Enter]").formNoValidate = isChosen();
  }
  const place = form.querySelector(".verdict-bar input[name=choice]") ? bestPlace() : null;
  for (const [index, answer] of form.querySelectorAll(".answer").entries()) answer.classList.toggle("chosen", index === place);
  offerBeginning();
}

function letterOf(answer) {
  return answer.querySelector("h2").lastChild.textContent;
}

function showRanking() {
  const groups = new Map();
  for (const slot of ballot().querySelectorAll(".tray [data-rank]")) {
    for (const letter of slot.querySelectorAll(".letter")) letter.remove();
  }
  for (const answer of answers().filter(isRanked)) {
    const rank = answer.querySelector(".ranks input:checked").value;
    groups.set(rank, [...(groups.get(rank) ?? []), letterOf(answer)]);
    const letter = Object.assign(document.createElement("span"), { className: "letter", textContent: letterOf(answer) });
    letter.dataset.drags = answer.querySelector(".handle").dataset.drags;
    ballot().querySelector(`.tray [data-rank="${rank}"]`).append(letter);
  }
  const ordered = [...groups].sort(([a], [b]) => a - b).map(([, letters]) => letters.join(" = "));
  document.getElementById("ranking").textContent = ordered.join(" > ");
}

// Where there are no ties, a rank that is given again is taken from who had it.
function keepApart(input) {
  if (!input.matches(".ranks input") || !ballot().hasAttribute("data-no-ties")) return;
  for (const other of ballot().querySelectorAll(`.ranks input[value="${input.value}"]:checked`)) {
    if (other !== input) other.checked = false;
  }
}

// All bad, or unrankable: only one of the boxes.
function keepOne(input) {
  if (!input.matches(".verdict-bar [type=checkbox][name=choice]:checked")) return;
  for (const other of ballot().querySelectorAll(".verdict-bar [type=checkbox][name=choice]")) other.checked = other === input;
}

// By mouse or finger one goes on as by key; who moves in a row with the arrow keys stays in it.
let isPointing = false;
document.addEventListener("pointerdown", () => { isPointing = true; }, { capture: true });
document.addEventListener("keydown", () => { isPointing = false; }, { capture: true });

document.addEventListener("change", (event) => {
  if (!event.target.closest("#verdict")) return;
  keepApart(event.target);
  keepOne(event.target);
  if (event.target.matches("[name=choice], .ranks input")) showSteps();
  showEntered();
  if (isPointing && event.target.matches(".verdict-bar [type=radio]")) goOnFrom(event.target);
});

// --- the handle: from an answer, or from the tray, to a rank in the tray ----------------------------------
document.addEventListener("pointerdown", (event) => {
  const handle = event.target.closest("#verdict [data-drags]");
  if (!handle || event.button !== 0) return;
  event.preventDefault();
  drag(handle, event);
});

function slotAt(event) {
  return document.elementFromPoint(event.clientX, event.clientY)?.closest(".tray [data-rank]");
}

function drag(handle, start) {
  const answer = answers()[handle.dataset.drags];
  const ghost = Object.assign(document.createElement("span"), { className: "ghost", textContent: letterOf(answer) });
  ballot().append(ghost); // within the form, with which it goes
  const move = (event) => {
    ghost.style.translate = `${event.clientX}px ${event.clientY}px`;
    for (const slot of ballot().querySelectorAll(".tray [data-rank]")) slot.classList.toggle("over", slot === slotAt(event));
  };
  const drop = (event) => {
    const slot = slotAt(event);
    if (slot) answer.querySelector(`.ranks input[value="${slot.dataset.rank}"]`).click();
  };
  const over = new AbortController();
  handle.setPointerCapture(start.pointerId);
  handle.addEventListener("pointermove", move, { signal: over.signal });
  handle.addEventListener("pointerup", drop, { signal: over.signal });
  handle.addEventListener(
    "lostpointercapture",
    () => {
      over.abort();
      ghost.remove();
      for (const slot of document.querySelectorAll(".tray .over")) slot.classList.remove("over");
    },
    { signal: over.signal },
  );
  move(start);
}

// --- highlights: offsets count the characters of the raw text, which is shown while one marks -------------
function rawOf(marks) {
  return JSON.parse(marks.dataset.raw);
}

function marksOf(place) {
  return ballot().querySelector(`.marks[data-answer="${place}"]`);
}

function spansNow() {
  return JSON.parse(ballot().querySelector("[name=spans]").value);
}

function keepSpans(spans) {
  ballot().querySelector("[name=spans]").value = JSON.stringify(spans);
  showSpans();
  saveSoon();
}

function showSpans() {
  const spans = spansNow();
  for (const marks of ballot().querySelectorAll(".marks[data-answer]")) {
    const mine = spans.filter((span) => span.answer === Number(marks.dataset.answer));
    const characters = [...rawOf(marks)]; // as Python counts them: an emoji is one
    marks.querySelector(".span-list").replaceChildren(...mine.map((span) => listed(span, characters)));
    const raw = marks.closest(".answer").querySelector(".raw");
    raw?.replaceChildren(...pieces(characters, mine));
  }
}

function listed(span, characters) {
  const item = document.createElement("li");
  const text = characters.slice(span.start, span.end).join("");
  const quote = Object.assign(document.createElement("q"), { textContent: text.length > 60 ? `${text.slice(0, 60)}…` : text });
  const remove = Object.assign(document.createElement("button"), { type: "button", className: "button quiet small", textContent: "Remove" });
  remove.addEventListener("click", () => keepSpans(spansNow().filter((other) => JSON.stringify(other) !== JSON.stringify(span))));
  item.append(quote, ` ${span.label} `, remove);
  return item;
}

// The text cut where a highlight begins or ends; they may overlap.
function pieces(characters, spans) {
  const cuts = [...new Set([0, characters.length, ...spans.flatMap(({ start, end }) => [start, end])])].sort((a, b) => a - b);
  return cuts.slice(1).map((end, index) => {
    const start = cuts[index];
    const labels = spans.filter((span) => span.start <= start && end <= span.end).map((span) => span.label);
    const piece = document.createElement(labels.length ? "mark" : "span");
    piece.textContent = characters.slice(start, end).join("");
    if (labels.length) piece.title = labels.join(", ");
    return piece;
  });
}

function toggleRaw(button) {
  const answer = button.closest(".answer");
  const isOn = button.ariaPressed !== "true";
  button.ariaPressed = String(isOn);
  answer.querySelector(".labels").hidden = !isOn;
  answer.querySelector(".markdown").hidden = isOn;
  answer.querySelector(".raw")?.remove();
  if (isOn) answer.querySelector(".markdown").after(Object.assign(document.createElement("div"), { className: "raw", dir: "auto" }));
  showSpans();
}

// By keyboard: a caret in the raw text, which can be read and selected like a text of one's own, and
// not changed. By mouse it is text like any other, so that keys go on to be about the verdict.
function takeUpText(button = answerInHand()?.querySelector("[data-marks]")) {
  if (!button) return false;
  if (button.ariaPressed !== "true") toggleRaw(button);
  const raw = button.closest(".answer").querySelector(".raw");
  const name = `Text of answer ${letterOf(button.closest(".answer"))}`;
  const isThere = { role: "textbox", ariaLabel: name, ariaMultiLine: "true", ariaReadOnly: "true" };
  Object.assign(raw, isThere, { contentEditable: "true", inputMode: "none", spellcheck: false });
  raw.focus();
  putCaret(raw, 0);
  return true;
}

function leaveText(raw) {
  const button = raw.closest(".answer").querySelector("[data-marks]");
  toggleRaw(button);
  button.focus();
}

// Before the character of this number.
function putCaret(raw, place) {
  let before = 0;
  for (const piece of raw.children) {
    const characters = [...piece.textContent];
    if (place <= before + characters.length) {
      const units = characters.slice(0, place - before).join("").length;
      return getSelection().collapse(piece.firstChild, units);
    }
    before += characters.length;
  }
}

document.addEventListener("keydown", (event) => {
  const raw = event.target.closest("#verdict .raw[contenteditable]");
  if (!raw || event.ctrlKey || event.metaKey || event.altKey) return;
  const labels = raw.closest(".answer").querySelectorAll("[data-label]");
  const label = event.key === "Enter" ? labels[0] : labels[meant(event.key.toLowerCase()) - 1];
  if (event.key === "Escape") leaveText(raw);
  else if (label) highlight(label);
  else return;
  event.preventDefault();
});
// It is there to be read. What an input method puts in all the same is taken out again.
document.addEventListener("beforeinput", (event) => {
  if (event.target.closest("#verdict .raw")) event.preventDefault();
});
document.addEventListener("input", (event) => {
  if (event.target.closest("#verdict .raw")) showSpans();
});

// [start, end] of what is selected in the raw text of this answer, or null.
function selectedIn(raw) {
  const selection = getSelection();
  if (!raw || !selection.rangeCount || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  if (!raw.contains(range.commonAncestorContainer)) return null;
  const before = document.createRange();
  before.setStart(raw, 0);
  before.setEnd(range.startContainer, range.startOffset);
  const start = [...before.toString()].length;
  return [start, start + [...range.toString()].length];
}

function highlight(button) {
  const marks = button.closest(".marks");
  const raw = marks.closest(".answer").querySelector(".raw");
  const selected = selectedIn(raw);
  if (!selected) return tellOf("Select some of the text first.");
  const [start, end] = selected;
  const span = { answer: Number(marks.dataset.answer), start, end, label: button.dataset.label };
  const others = spansNow().filter((other) => JSON.stringify(other) !== JSON.stringify(span));
  keepSpans([...others, span]);
  tellOf(`Marked as ${span.label}.`);
  if (raw.isContentEditable) putCaret(raw, end);
  else getSelection().removeAllRanges();
}

// To who does not see it.
function tellOf(text) {
  const said = document.getElementById("said");
  if (said) said.textContent = text;
}

document.addEventListener("mousedown", (event) => {
  if (event.target.closest("#verdict [data-label]")) event.preventDefault(); // the selection stays
});
document.addEventListener("click", (event) => {
  const toggle = event.target.closest("#verdict [data-marks]");
  const label = event.target.closest("#verdict [data-label]");
  if (toggle && event.detail === 0 && toggle.ariaPressed !== "true") takeUpText(toggle); // by key
  else if (toggle) toggleRaw(toggle);
  if (label) highlight(label);
});

// --- a rewrite may start from the answer that was chosen -----------------------------------------------------
function bestPlace() {
  const choice = ballot().querySelector(".verdict-bar input[name=choice]:checked")?.value ?? "";
  if (choice.startsWith("first")) return 0;
  if (choice.startsWith("second")) return 1;
  if (choice.startsWith("best-")) return Number(choice.slice(5));
  if (choice || !isRanking() || unranked()) return null;
  const ranks = answers().map((answer) => Number(answer.querySelector(".ranks input:checked").value));
  const best = Math.min(...ranks);
  return ranks.filter((rank) => rank === best).length === 1 ? ranks.indexOf(best) : null;
}

function offerBeginning() {
  const button = ballot().querySelector("[data-fill]");
  if (!button) return;
  const place = bestPlace();
  button.hidden = place === null || document.getElementById("rewrite").value !== ""; // nothing is lost
  if (place !== null) button.textContent = `Start from answer ${"ABCDEFGHI"[place]}`;
}

document.addEventListener("click", (event) => {
  if (!event.target.closest("#verdict [data-fill]")) return;
  const field = document.getElementById("rewrite");
  field.value = rawOf(marksOf(bestPlace()));
  field.focus();
  field.setSelectionRange(0, 0);
  offerBeginning();
  saveSoon();
});

// --- drafts ----------------------------------------------------------------------------------------------
const DRAFT_MS = 700;
const DRAFT_AGAIN_MS = 10_000; // without a connection; sooner where the browser knows that it is back
let draftTimer = null;

function saveSoon(ms = DRAFT_MS) {
  clearTimeout(draftTimer);
  if (ballot()?.dataset.draft) draftTimer = setTimeout(saveDraft, ms);
}

async function saveDraft(isLeaving = false) {
  clearTimeout(draftTimer);
  draftTimer = null;
  const form = ballot();
  if (!form?.dataset.draft) return;
  const said = document.getElementById("kept");
  try {
    const answer = await fetch(form.dataset.draft, { method: "POST", body: new FormData(form), keepalive: isLeaving });
    if (said) said.textContent = answer.status === 204 ? "Draft kept." : "The draft is not kept: reload the page in another tab.";
  } catch {
    if (said) said.textContent = "No connection: the draft is on this page alone until it is back.";
    // Unless something was entered meanwhile, or the next comparison is there: then it is about that.
    if (draftTimer === null && form === ballot()) saveSoon(DRAFT_AGAIN_MS);
  }
}

addEventListener("online", () => {
  if (draftTimer) saveDraft();
});

document.addEventListener("input", (event) => {
  if (!event.target.closest("#verdict")) return;
  saveSoon();
  offerBeginning();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && draftTimer) saveDraft(true);
});
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.id === "verdict") clearTimeout(draftTimer); // the verdict says it all
});

// --- what is new on the page --------------------------------------------------------------------------------
function prepareVerdict() {
  clearTimeout(draftTimer);
  draftTimer = null;
  if (!ballot()) return;
  showSteps();
  showEntered();
  if (ballot().querySelector("[name=spans]")) showSpans();
}

prepareVerdict();
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "comparison") prepareVerdict();
});
