// A person's own keys. Everything else on the page knows an action by its usual key: what is pressed
// is translated here, and so is what is printed on the buttons.
const aliases = { z: "u" };
const keyMap = JSON.parse(document.getElementById("keys").dataset.keyMap);
const usualKeys = Object.fromEntries(Object.entries(keyMap).map(([usual, own]) => [own, usual]));

// The usual key of what is pressed; an empty text if its action has moved to another key.
function meant(pressed) {
  if (pressed in usualKeys) return usualKeys[pressed];
  if (pressed in keyMap) return "";
  return aliases[pressed] ?? pressed;
}

function labelKeys(root) {
  for (const kbd of root.querySelectorAll("kbd")) {
    kbd.dataset.usual ??= kbd.textContent === "↵" ? "Enter" : kbd.textContent.toLowerCase();
    const own = keyMap[kbd.dataset.usual];
    if (own) kbd.textContent = own.toUpperCase();
  }
}

labelKeys(document);
document.body.addEventListener("htmx:load", (event) => labelKeys(event.detail.elt));
