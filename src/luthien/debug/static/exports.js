// Copies what a button or a link names; without this script, a link leads to where it can be selected.
const said = (near, text) => {
  let status = near.nextElementSibling;
  if (!status || status.getAttribute("role") !== "status") {
    status = document.createElement("span");
    status.setAttribute("role", "status");
    near.after(status);
  }
  status.textContent = text;
};

const copy = async (near, text) => {
  await navigator.clipboard.writeText(text);
  said(near, "Copied");
};

if (navigator.clipboard) {
  for (const button of document.querySelectorAll("button[data-copy-of]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const source = document.getElementById(button.dataset.copyOf);
      copy(button, source.value).catch(() => { source.select(); said(button, "Selected: copy it with the keyboard"); });
    });
  }
  for (const link of document.querySelectorAll("a[data-copy]")) {
    link.addEventListener("click", async (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      try {
        const response = await fetch(link.dataset.copy);
        if (!response.ok) throw new Error();
        await copy(link, await response.text());
      } catch {
        location.href = link.href;
      }
    });
  }
}
