// Marks what only one of two answers says, as long as the button is pressed. The marks are painted
// over the text (CSS Custom Highlight API): nothing on the page changes its place.
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

async function showDifferences() {
  CSS.highlights.delete(MARK);
  const button = differencesButton();
  if (!isShown()) return;
  const [first, second] = document.querySelectorAll("#comparison .answer > .markdown");
  const response = await post(button.dataset.compare, { first: first.textContent, second: second.textContent });
  const spans = await response.json();
  if (!isShown() || !first.isConnected) return; // the next comparison is there by now
  const ranges = [...rangesIn(first, spans.first), ...rangesIn(second, spans.second)];
  CSS.highlights.set(MARK, new Highlight(...ranges));
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
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", !isShown());
    post(button.dataset.remember, isShown() ? { on: 1 } : {}).catch(() => {}); // it works for now
    showDifferences().catch(sayWhyNot);
  });
  showDifferences().catch(sayWhyNot);
}

function sayWhyNot(error) {
  differencesButton()?.setAttribute("aria-pressed", "false");
  showAlert(error.message);
}

prepareDifferences();
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "comparison") prepareDifferences();
});
