// Marks what only one of two answers says, as long as the button is pressed. Of three or more, one
// chooses which two; or all the others are compared with one, and have marked what that one does not
// say. The marks are painted over the text (CSS Custom Highlight API): nothing changes its place.
const MARK = "difference";

function differencesButton() {
  return document.getElementById("differences");
}

function isShown() {
  return differencesButton()?.getAttribute("aria-pressed") === "true";
}

async function post(url, fields) {
  const headers = JSON.parse(document.body.getAttribute("hx-headers"));
  const response = await fetch(url, { method: "POST", headers, body: new URLSearchParams(fields) });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? "The server cannot be reached.");
  return response;
}

let asked = 0;

async function showDifferences() {
  const mine = ++asked;
  CSS.highlights.delete(MARK);
  const button = differencesButton();
  if (!isShown()) return;
  const [first, ...others] = compared();
  const found = await Promise.all(others.map((other) => differing(button.dataset.compare, first, other)));
  if (!isShown() || mine !== asked) return; // the next comparison is there by now, or another choice
  const ranges = found.flatMap((spans, place) => [...rangesIn(others[place], spans.second)]);
  if (others.length === 1) ranges.push(...rangesIn(first, found[0].first));
  CSS.highlights.set(MARK, new Highlight(...ranges));
}

async function differing(url, first, second) {
  const response = await post(url, { first: first.textContent, second: second.textContent });
  return response.json();
}

// --- which ones ----------------------------------------------------------------------------------
function shownAnswers() {
  return [...document.querySelectorAll("#comparison .answer > .markdown")];
}

function choices() {
  return document.querySelectorAll("#compared select");
}

// One answer, and those that it is compared with.
function compared() {
  const all = shownAnswers();
  if (all.length === 2) return all;
  const [one, other] = [...choices()].map((choice) => all[choice.value]);
  return [one, ...(other ? [other] : all.filter((answer) => answer !== one))];
}

function offerAnswers() {
  const [one, other] = choices();
  for (const place of shownAnswers().keys()) {
    for (const choice of [one, other]) choice.add(new Option("ABCDEFGHI"[place], place));
  }
  one.value = 0;
  keepTwoApart();
  for (const choice of [one, other]) {
    choice.addEventListener("change", () => {
      keepTwoApart();
      showDifferences().catch(sayWhyNot);
    });
  }
}

function keepTwoApart() {
  const [one, other] = choices();
  if (other.value === one.value) other.value = "";
  for (const option of other.options) option.disabled = option.value === one.value;
}

// Ranges of the [start, end] of an element's text, which lies in many nodes.
function* rangesIn(element, spans) {
  const nodes = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let node = nodes.nextNode();
  let before = 0;
  const at = (offset) => {
    while (before + node.length < offset) {
      before += node.length;
      node = nodes.nextNode();
    }
    return [node, offset - before];
  };
  for (const [start, end] of spans) {
    const range = document.createRange();
    range.setStart(...at(start));
    range.setEnd(...at(end));
    yield range;
  }
}

function prepareDifferences() {
  const button = differencesButton();
  if (!button || !CSS.highlights) return;
  button.hidden = false;
  if (shownAnswers().length > 2) offerAnswers();
  offerChoice();
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", !isShown());
    offerChoice();
    post(button.dataset.remember, isShown() ? { on: 1 } : {}).catch(() => {}); // it works for now
    showDifferences().catch(sayWhyNot);
  });
  showDifferences().catch(sayWhyNot);
}

function offerChoice() {
  document.getElementById("compared").hidden = !isShown() || shownAnswers().length === 2;
}

function sayWhyNot(error) {
  differencesButton()?.setAttribute("aria-pressed", "false");
  offerChoice();
  showAlert(error.message);
}

prepareDifferences();
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "comparison") prepareDifferences();
});
