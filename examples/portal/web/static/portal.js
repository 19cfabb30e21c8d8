"use strict";
// The pages work without this script. It updates a page that is open: it explains why a player failed,
// shows security events as they arrive, and counts down a clinician's time.

const player = document.getElementById("player");
const outcome = document.getElementById("outcome");

// darken covers the player and says that it cannot play.
function darken() {
  player.controls = false;
  document.getElementById("dark").hidden = false;
}

// A player does not know why it failed. The server does: load this page again, and show its reason.
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
      // Otherwise the player would go on with what it has received.
      player.removeAttribute("src");
      player.load();
      darken();
    }
  }, 250);
}
