// Requests to the server, and the loop that keeps the page up to date.

import { announce, put } from "./dom.js";

// Everything is found from where this file is, so that any prefix of a proxy will do.
export const root = new URL("../", import.meta.url);
export const at = (path) => new URL(path, root).href;

let skew = 0; // milliseconds that the server's clock is ahead
export const serverNow = () => (Date.now() + skew) / 1000;

export class Trouble extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(at(path), { credentials: "same-origin", cache: "no-cache", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(0, "The server cannot be reached. Is `kythera serve` still running, and the tunnel open?");
  }
  if (answer.status === 401) location.reload(); // to the page that asks for the token
  const date = Date.parse(answer.headers.get("date"));
  if (date) skew = date - Date.now();
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Trouble(answer.status, content.error || `The server answered with ${answer.status}.`);
  return content;
}

export const get = (path, signal) => ask(path, { signal });

// The header of our own is what a form of another site cannot send.
export const send = (method, path, content) =>
  ask(path, {
    method,
    headers: { "content-type": "application/json", "x-kythera": "1" },
    body: JSON.stringify(content),
  });

const LONGEST = 30; // seconds between two tries at most
let lost = false;

function tell(error) {
  const banner = document.getElementById("banner");
  banner.hidden = !error;
  if (error) put(banner, `${error.message} What is shown is older; the page keeps trying.`);
  const pulse = document.getElementById("pulse");
  pulse.hidden = false;
  pulse.classList.toggle("lost", Boolean(error));
  const now = new Date().toLocaleTimeString("en-GB");
  if (!error) put(document.getElementById("pulse-text"), `updated ${now}`);
  else put(document.getElementById("pulse-text"), "not connected");
  if (lost && !error) announce("Connected again.");
  lost = Boolean(error);
}

// Calls `read` for ever: it shows what it got and returns the seconds until the next time,
// or null where nothing can change any more. Where it fails, what is shown stays.
export function watch(read) {
  let timer, wait = 1, failed = 0, busy = false;
  const step = async () => {
    clearTimeout(timer);
    if (busy || document.hidden) return;
    busy = true;
    try {
      const began = performance.now();
      const next = await read();
      tell(null);
      // A slow server is not asked without a pause.
      wait = Math.max(next, (2 * (performance.now() - began)) / 1000);
      failed = 0;
    } catch (error) {
      if (error.status === 404) {
        document.getElementById("content").replaceChildren(gone(error.message));
        return;
      }
      tell(error);
      failed += 1;
      wait = Math.min(LONGEST, 2 ** failed);
    } finally {
      busy = false;
    }
    timer = setTimeout(step, 1000 * wait);
  };
  document.addEventListener("visibilitychange", step);
  step();
  return step;
}

function gone(text) {
  const place = document.createElement("div");
  const title = document.createElement("h1");
  title.textContent = "Not found";
  const what = document.createElement("p");
  what.textContent = text;
  const home = document.createElement("a");
  home.href = root.href;
  home.textContent = "All studies";
  place.append(title, what, home);
  return place;
}
