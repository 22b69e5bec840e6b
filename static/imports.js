// Says at once that a file is too large, and how much of it has been sent.
const mib = (bytes) => (bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 1 });

document.addEventListener("change", ({ target }) => {
  if (!target.dataset.maxBytes) return;
  const limit = Number(target.dataset.maxBytes);
  const size = target.files[0]?.size ?? 0;
  const problem = `The file has ${mib(size)} MiB; the limit here is ${mib(limit)}. The command ${target.dataset.command ?? "import_comparisons"} has none.`;
  target.setCustomValidity(size > limit ? problem : "");
  target.reportValidity();
});

document.body.addEventListener("htmx:xhr:progress", ({ target, detail }) => {
  const sending = document.getElementById("sending");
  if (target.id !== "import-source" || !detail.lengthComputable || sending.dataset.sent) return;
  sending.hidden = false;
  sending.querySelector("progress").value = detail.loaded / detail.total;
  sending.querySelector("span").textContent = `${mib(detail.loaded)} of ${mib(detail.total)} MiB`;
  if (detail.loaded === detail.total) sending.dataset.sent = "yes"; // what comes then is the answer
});
