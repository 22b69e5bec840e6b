// Before the first paint: the theme chosen in this browser, if it is not the system's.
(() => {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
})();
