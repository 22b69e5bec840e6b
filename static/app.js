// What every page needs and HTML cannot do: the theme button, and plain words when a request fails.
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

function showNotice(text) {
  const notices = document.getElementById("notices");
  const notice = document.createElement("p");
  notice.className = "notice error";
  notice.setAttribute("role", "alert");
  notice.textContent = text;
  notices.replaceChildren(notice);
}

// A fragment that refreshes itself tries again by itself; only what somebody sent is worth a notice.
function isSent(event) {
  return event.detail.requestConfig?.verb === "post";
}

document.body.addEventListener("htmx:sendError", (event) => {
  if (isSent(event)) {
    showNotice("The server cannot be reached. Nothing is lost: send it again when you are connected.");
  }
});
document.body.addEventListener("htmx:responseError", (event) => {
  if (!isSent(event)) return;
  const status = event.detail.xhr.status;
  showNotice(
    status === 404
      ? "This is not here any more, or you may not see it any more. Reload the page."
      : status === 403
        ? "You were signed out or in meanwhile. Reload the page, and send it again."
        : "The server had a problem. Nothing was recorded: send it again in a moment.",
  );
});
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (isSent(event)) document.getElementById("notices").replaceChildren();
});
