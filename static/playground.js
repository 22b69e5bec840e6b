// The playground: the same message to two policies, read while they write. The conversation lives in
// this page: what each side has said goes along with the next message to it.
const form = document.getElementById("playground");
const said = document.getElementById("said");
const buttons = { send: document.getElementById("send"), stop: document.getElementById("stop"), clear: document.getElementById("clear") };
const ATTEMPTS = 10; // when all places at the model server are taken

const turns = []; // {text, left: answer or null, right: answer or null}
let stopping = null; // ends what is being written

function sides() {
  return ["left", "right"].filter((side) => form.elements[side].value);
}

function messagesFor(side) {
  const system = form.elements.system.value.trim();
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const isLast = turn === turns.at(-1);
    if (!isLast && !turn[side]) continue; // it has not answered that: it was stopped, or failed
    messages.push({ role: "user", content: turn.text });
    if (!isLast) messages.push({ role: "assistant", content: turn[side] });
  }
  return messages;
}

function bodyFor(side) {
  const body = { messages: messagesFor(side), stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    const value = form.elements[name].value;
    if (value !== "") body[name] = Number(value);
  }
  return JSON.stringify(body);
}

async function ask(side, signal, onWait) {
  const headers = { "Content-Type": "application/json", "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(form.elements[side].value, { method: "POST", headers, body: bodyFor(side), signal });
    const seconds = response.headers.get("Retry-After");
    if (response.status !== 503 || !seconds || attempt === ATTEMPTS) return response;
    onWait();
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(seconds)));
    signal.throwIfAborted();
  }
}

async function errorOf(response) {
  const isJson = response.headers.get("Content-Type")?.includes("json");
  const body = isJson ? await response.json() : null;
  return new Error(body?.error?.message ?? `The server answered with status ${response.status}.`);
}

// The events of a stream, one JSON object each, without the last, [DONE].
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function addReply(side, place) {
  const reply = document.getElementById("reply").content.cloneNode(true).firstElementChild;
  const select = form.elements[side];
  reply.querySelector(".reply-name").textContent = select.options[select.selectedIndex].text;
  place.append(reply);
  return { text: reply.querySelector(".reply-text"), note: reply.querySelector(".reply-note") };
}

function noteOf(text, usage, reason, seconds) {
  const plural = usage.completion_tokens === 1 ? "" : "s";
  const tokens = `${usage.completion_tokens} token${plural} in ${seconds.toFixed(1)} s`;
  if (!text) return `An empty answer: ${tokens}`;
  return reason === "length" ? `${tokens}, cut off at the longest answer` : tokens;
}

async function write(side, turn, reply, signal) {
  const began = performance.now();
  let text = "";
  let reason = null;
  try {
    reply.note.textContent = "Waiting for the first word. A model that nobody has asked for a while is loaded first.";
    const response = await ask(side, signal, () => { reply.note.textContent = "Others are being answered: waiting."; });
    if (!response.ok) throw await errorOf(response);
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta.content ?? "";
      reason = event.choices[0]?.finish_reason ?? reason;
      if (text) reply.note.textContent = "";
      reply.text.textContent = text;
      if (event.usage) reply.note.textContent = noteOf(text, event.usage, reason, (performance.now() - began) / 1000);
    }
    turn[side] = text || null;
  } catch (error) {
    const wasStopped = signal.aborted;
    if (wasStopped) turn[side] = text || null; // what it has said so far counts
    reply.note.classList.toggle("failed", !wasStopped);
    reply.note.textContent = wasStopped ? "Stopped." : error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
}

async function send() {
  if (stopping || !form.reportValidity()) return;
  const turn = { text: said.value, left: null, right: null };
  turns.push(turn);
  const section = document.getElementById("turn").content.cloneNode(true).firstElementChild;
  section.querySelector(".asked").textContent = turn.text;
  document.getElementById("turns").append(section);
  stopping = new AbortController();
  said.value = "";
  show();
  section.scrollIntoView({ block: "start" });
  const place = section.querySelector(".playground-answers");
  await Promise.all(sides().map((side) => write(side, turn, addReply(side, place), stopping.signal)));
  if (turns.includes(turn) && !turn.left && !turn.right && !said.value) said.value = turn.text; // nobody types it twice
  stopping = null;
  show();
  said.focus({ preventScroll: true });
}

function clear() {
  stopping?.abort();
  turns.length = 0;
  document.getElementById("turns").replaceChildren();
  show();
  said.focus();
}

function show() {
  buttons.send.disabled = stopping !== null;
  buttons.stop.disabled = stopping === null;
  document.getElementById("playground-empty").hidden = turns.length > 0;
  document.getElementById("state").textContent = stopping ? "Writing …" : "";
}

if (form) {
  form.hidden = false;
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  said.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  buttons.stop.addEventListener("click", () => stopping?.abort());
  buttons.clear.addEventListener("click", clear);
}
