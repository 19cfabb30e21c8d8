"use strict";
// The pages work without this. It adds what happens while a page is open: a refused player is
// explained, security events arrive, and a clinician's time runs down.

const player = document.getElementById("player");
const outcome = document.getElementById("outcome");

function darken() {
  player.controls = false;
  document.getElementById("dark").hidden = false;
}

// A player knows only that it failed. Why is the server's to say: ask it for this page again.
player?.addEventListener("error", async () => {
  if (!player.hasAttribute("src")) return;
  darken();
  if (outcome.firstElementChild) return;
  const response = await fetch(location.href, { redirect: "error" });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  outcome.replaceChildren(...page.getElementById("outcome").childNodes);
});

const events = document.getElementById("events");
if (events) {
  new EventSource("/events").addEventListener("message", (message) => {
    const page = new DOMParser().parseFromString(`<ol>${message.data}</ol>`, "text/html");
    events.replaceChildren(...page.querySelector("ol").childNodes);
  });
}

const left = document.querySelector(".left");
if (left && left.dataset.seconds > 0) {
  const end = performance.now() + left.dataset.seconds * 1000;
  const ticking = setInterval(() => {
    const seconds = Math.max(0, Math.ceil((end - performance.now()) / 1000));
    left.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    left.classList.toggle("soon", seconds <= 30);
    if (seconds > 0) return;
    clearInterval(ticking);
    left.closest(".access").hidden = true;
    document.getElementById("over").hidden = false;
    if (player) {
      // What was received already would play on.
      player.removeAttribute("src");
      player.load();
      darken();
    }
  }, 250);
}
