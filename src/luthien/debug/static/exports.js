// Copies what a button or a link names; without this script, a link leads to where it can be selected.
const said = (near, text) => {
  let status = near.nextElementSibling;
  if (status?.getAttribute("role") !== "status") {
    status = document.createElement("span");
    status.setAttribute("role", "status");
    near.after(status);
  }
  status.textContent = text;
};

const copyField = async (button) => {
  const source = document.getElementById(button.dataset.copyOf);
  try {
    await navigator.clipboard.writeText(source.value);
    said(button, "Copied");
  } catch { // no clipboard but over HTTPS and on localhost
    source.select();
    said(button, "Selected: copy it with the keyboard");
  }
};

const copyFile = async (link) => {
  try {
    const answer = await fetch(link.dataset.copy);
    if (!answer.ok) throw new Error(`${answer.status}`);
    await navigator.clipboard.writeText(await answer.text());
    said(link, "Copied");
  } catch {
    location.href = link.href;
  }
};

for (const button of document.querySelectorAll("button[data-copy-of]")) button.hidden = false;

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy-of]");
  const link = event.target.closest("a[data-copy]");
  if (button) copyField(button);
  else if (link && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) {
    event.preventDefault();
    copyFile(link);
  }
});
