// A verdict is kept in this browser from the press until the server has answered, and sent again
// by itself: through a lost connection, a restart of the server, a reload, signing in again. The
// server records it once, however often it comes.
const unsent = document.getElementById("unsent");
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
let waitMs = FIRST_WAIT_MS;
let timer;

const store = {
  keep: (fields) => localStorage.setItem(unsent.dataset.key, JSON.stringify(fields)),
  kept: () => JSON.parse(localStorage.getItem(unsent.dataset.key)),
  forget: () => localStorage.removeItem(unsent.dataset.key),
};

function isVerdict(event) {
  return event.detail.requestConfig.path === unsent.getAttribute("hx-post");
}

// Without the token: it is the session's, and this page may be sent in the next one.
document.body.addEventListener("htmx:beforeSend", (event) => {
  if (!isVerdict(event)) return;
  const fields = [...event.detail.requestConfig.formData];
  store.keep(fields.filter(([name]) => name !== "csrfmiddlewaretoken"));
});

document.body.addEventListener("htmx:afterRequest", (event) => {
  if (!isVerdict(event)) return;
  const { xhr } = event.detail;
  if (xhr.getResponseHeader("HX-Redirect")) return; // to the sign-in page, and back to this one
  if (!isKeptAfter(xhr.status)) {
    store.forget();
    unsent.hidden = true;
    waitMs = FIRST_WAIT_MS;
  } else if (xhr.status === 403) {
    say("You were signed out or in meanwhile. Your verdict is kept, and is sent when the page is loaded anew.");
    offer("Reload the page", () => location.reload());
  } else {
    say("Your verdict has not arrived. It is kept, and sent again by itself.");
    timer = setTimeout(send, waitMs);
    waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
  }
});

// 0: no answer at all. What else comes back is about this verdict, and will be the same next time.
function isKeptAfter(status) {
  return status === 0 || status >= 500 || [403, 408, 429].includes(status);
}

// Said here already: before what every page says of requests that fail.
for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
  const quiet = (event) => {
    if (isVerdict(event) && isKeptAfter(event.detail.xhr.status)) event.stopPropagation();
  };
  document.body.addEventListener(name, quiet, { capture: true });
}

function say(text) {
  unsent.hidden = false;
  document.getElementById("unsent-said").textContent = text;
}

function offer(label, act) {
  const button = document.getElementById("unsent-button");
  button.textContent = label;
  button.onclick = act;
}

function send() {
  clearTimeout(timer);
  offer("Send it now", send);
  const fields = store.kept();
  if (!fields) {
    // Another tab has sent it: what is shown here is judged already.
    if (!unsent.hidden) location.reload();
    return;
  }
  const inputs = fields.map(([name, value]) => Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  document.getElementById("unsent-fields").replaceChildren(...inputs);
  htmx.trigger(unsent, "submit");
}

addEventListener("online", send);

// What waits to be sent is the verdict: no second one beside it.
document.addEventListener(
  "click",
  (event) => {
    if (!unsent.hidden && event.target.closest("#comparison button[type=submit]")) event.preventDefault();
  },
  { capture: true },
);

if (store.kept()) say("Your last verdict is being sent.");
document.addEventListener("DOMContentLoaded", send); // not before htmx knows the form
