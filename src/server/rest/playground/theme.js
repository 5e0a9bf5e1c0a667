// The theme follows the system until the button in the header chooses the other one.
(() => {
  const NAME = "blip-serve-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  /** @returns {string | null} The choice, or null where the browser has no storage. */
  const chosen = () => {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null;
    }
  };

  /** @param {boolean} dark */
  const choose = (dark) => {
    // A choice equal to that of the system is removed, so that the page follows the system.
    const theme = dark === system.matches ? null : dark ? "dark" : "light";
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    try {
      if (theme) localStorage.setItem(NAME, theme);
      else localStorage.removeItem(NAME);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
  };

  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

  const theme = chosen();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      choose(!isDark());
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
