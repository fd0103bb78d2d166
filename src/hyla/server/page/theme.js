// Runs before the page is drawn, so that it never flashes in the other theme.
(() => {
  const root = document.documentElement;
  const kept = (() => {
    try {
      return localStorage.getItem("hyla.theme");
    } catch {
      return null;
    }
  })();
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => (root.dataset.theme = theme ?? (system.matches ? "dark" : "light"));
  let chosen = kept === "dark" || kept === "light" ? kept : null;
  apply(chosen);
  system.addEventListener("change", () => apply(chosen));
  window.toggleTheme = () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    apply(chosen);
    try {
      localStorage.setItem("hyla.theme", chosen);
    } catch {
      // A browser that keeps nothing forgets it with the page.
    }
    return chosen;
  };
})();
